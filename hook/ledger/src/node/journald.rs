//! The system's journal, by its native protocol: one datagram an entry, fields by line. Nothing waits
//! for it: where nobody listens, or it does not keep up, the entry is lost to the journal.

use std::io::Result;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Sends one entry to the journal's socket.
///
/// # Errors
/// The system's: no socket there, nobody who listens, or no room now.
pub fn send(socket: &Path, fields: &[(&str, String)]) -> Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to(&encode(fields), socket).map(drop)
}

/// The fields as the journal reads them: `NAME=value` and a line's end. A value that itself has a
/// line's end comes with its length instead, in eight bytes, the lowest first.
fn encode(fields: &[(&str, String)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_lines_end_cannot_make_a_field_of_its_own() {
        let fields = [("A", "one".to_owned()), ("B", "two\nA=three".to_owned())];
        assert_eq!(encode(&fields), b"A=one\nB\n\x0b\0\0\0\0\0\0\0two\nA=three\n");
    }

    #[test]
    fn nobody_listens_or_reads_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let fields = [("MESSAGE", "x".repeat(1000))];
        assert!(send(&path, &fields).is_err());
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let begun = std::time::Instant::now();
        // Its queue is full after some.
        while send(&path, &fields).is_ok() {}
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }
}
