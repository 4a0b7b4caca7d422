//! What goes over the serial port between host and guest, both ways: a kind, the number of the run
//! that it belongs to, a length, and so many bytes.

use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

/// The longest payload, in bytes.
const LONGEST: usize = 1 << 20;
/// How much of a stream goes into one frame, in bytes.
pub const PIECE: usize = 1 << 16;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Guest: the agent is there.
    Hello,
    /// Host: run this; a [`Run`].
    Run,
    /// Host: a piece of its standard input.
    Input,
    /// Guest: a piece of its standard output.
    Out,
    /// Guest: a piece of its standard error.
    Err,
    /// Guest: it has ended; the exit code in decimal.
    End,
}

const KINDS: [(Kind, u8); 6] = [
    (Kind::Hello, b'H'),
    (Kind::Run, b'R'),
    (Kind::Input, b'I'),
    (Kind::Out, b'1'),
    (Kind::Err, b'2'),
    (Kind::End, b'X'),
];

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// How long it may take, in seconds.
    pub limit: u64,
    /// How many bytes of standard input follow.
    pub input: u64,
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Which run it belongs to.
    pub run: u32,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// Sends a frame.
///
/// # Errors
/// The system's; a payload that is too long.
pub fn send(to: &mut impl Write, kind: Kind, run: u32, payload: &[u8]) -> std::io::Result<()> {
    if payload.len() > LONGEST {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let letter = KINDS.iter().find(|(k, _)| *k == kind).map_or(0, |(_, letter)| *letter);
    let length = u32::try_from(payload.len()).unwrap_or(0);
    let mut bytes = vec![letter];
    bytes.extend_from_slice(&run.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    to.write_all(&bytes)
}

/// Waits for a frame.
///
/// # Errors
/// The system's; the other side's end; what is no frame.
pub fn receive(from: &mut impl Read) -> std::io::Result<Frame> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let [letter, a, b, c, d, e, f, g, h] = head;
    let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let kind = KINDS.iter().find(|(_, l)| *l == letter).map(|(k, _)| *k).ok_or_else(wrong)?;
    let length = usize::try_from(u32::from_be_bytes([e, f, g, h])).map_err(|_| wrong())?;
    if length > LONGEST {
        return Err(wrong());
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload)?;
    Ok(Frame { kind, run: u32::from_be_bytes([a, b, c, d]), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_and_nonsense_is_refused() {
        let mut wire = Vec::new();
        send(&mut wire, Kind::Out, 7, b"hello").unwrap();
        send(&mut wire, Kind::End, 7, b"0").unwrap();
        let mut from = wire.as_slice();
        let first = receive(&mut from).unwrap();
        assert_eq!(
            (first.kind, first.run, first.payload.as_slice()),
            (Kind::Out, 7, &b"hello"[..])
        );
        assert_eq!(receive(&mut from).unwrap().kind, Kind::End);
        assert!(receive(&mut from).is_err(), "the end");
        assert!(receive(&mut &b"?00001111"[..]).is_err());
        assert!(receive(&mut &[b'1', 0, 0, 0, 0, 255, 255, 255, 255][..]).is_err());
        assert!(send(&mut Vec::new(), Kind::Out, 0, &vec![0; LONGEST + 1]).is_err());
    }
}
