//! An archive as the kernel unpacks it at boot: cpio, "newc" (Documentation/driver-api/early-userspace).

/// Files for an initramfs, in order: a folder before what is in it.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    /// A folder.
    #[must_use]
    pub fn folder(self, name: &str) -> Self {
        self.entry(name, FOLDER, &[])
    }

    /// A file.
    #[must_use]
    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, FILE, content)
    }

    /// A file that can be run.
    #[must_use]
    pub fn program(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, PROGRAM, content)
    }

    /// The archive.
    pub fn end(self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]).bytes
    }

    fn entry(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.count += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let length = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        // inode, mode, owner, group, links, time, size, device and special device (two numbers each),
        // length of the name, checksum.
        let numbers = [self.count, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        self.bytes.extend_from_slice(b"070701");
        for number in numbers {
            self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.fill();
        self.bytes.extend_from_slice(content);
        self.fill();
        self
    }

    fn fill(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        let one = Archive::default().folder("bin").file("bin/x", b"12345").end();
        let text = String::from_utf8_lossy(&one);
        let at: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(at, [0, 116, 116 + 116 + 8]);
        assert_eq!(&text[6..22], "00000001000041ED");
        assert_eq!(text.find("12345"), Some(116 + 116));
        assert_eq!(one.len() % 4, 0);
    }
}
