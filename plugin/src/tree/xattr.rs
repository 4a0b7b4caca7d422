//! Extended attributes of every namespace: user, trusted, security, and POSIX ACLs, which are
//! system's.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Longest list of names and longest value, in bytes: the system's own limits.
const LONGEST: usize = 64 * 1024;
/// XFS shows an ACL a second time, under the name that it keeps it by.
const ALIASES: [&[u8]; 2] = [b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT"];
/// Properties of a file system, not of what is in it: another one need not take them.
const OF_BTRFS: &[u8] = b"btrfs.";

/// What has the attributes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bearer<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A name in a directory: links, fifos and devices are not opened.
    Named(BorrowedFd<'a>, &'a CStr),
}

/// Room for reading, kept between files.
#[derive(Debug)]
pub(super) struct Room {
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Room {
    fn default() -> Self {
        Self { names: Vec::with_capacity(LONGEST), value: Vec::with_capacity(LONGEST) }
    }
}

/// Attributes by name, in the order of their names.
pub(super) type Attributes = Vec<(CString, Vec<u8>)>;

impl Bearer<'_> {
    /// The way to a name in a directory that is only open: the system has calls by descriptor for
    /// open files alone.
    fn way(dir: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
        let mut way = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
        way.extend_from_slice(name.to_bytes());
        way
    }

    /// The names of its attributes.
    fn names(&self, room: &mut Room) -> Result<Vec<CString>, Errno> {
        room.names.clear();
        let into = rustix::buffer::spare_capacity(&mut room.names);
        let listed = match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, into),
            Self::Named(dir, name) => rustix::fs::llistxattr(Self::way(*dir, name), into),
        };
        match listed {
            Ok(_) => {}
            // There are none on this file system.
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            Err(why) => return Err(why),
        }
        let names = room.names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let mut names: Vec<CString> = names
            .filter(|name| !ALIASES.contains(name))
            .filter_map(|name| CString::new(name).ok())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The value of one; `None` where it is not there.
    fn value(&self, attribute: &CStr, room: &mut Room) -> Result<Option<Vec<u8>>, Errno> {
        room.value.clear();
        let into = rustix::buffer::spare_capacity(&mut room.value);
        let read = match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, attribute, into),
            Self::Named(dir, name) => rustix::fs::lgetxattr(Self::way(*dir, name), attribute, into),
        };
        match read {
            Ok(_) => Ok(Some(room.value.clone())),
            Err(Errno::NODATA) => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// All attributes but those named.
    pub(super) fn read(&self, but: &[String], room: &mut Room) -> Result<Attributes, Errno> {
        let mut found = Vec::new();
        for name in self.names(room)? {
            if but.iter().any(|but| but.as_bytes() == name.to_bytes()) {
                continue;
            }
            let value = self.value(&name, room)?.ok_or(Errno::STALE)?;
            found.push((name, value));
        }
        Ok(found)
    }

    /// Whether it has one of these attributes.
    pub(super) fn has_any(&self, of: &[&CStr], room: &mut Room) -> Result<bool, Errno> {
        Ok(self.names(room)?.iter().any(|name| of.contains(&name.as_c_str())))
    }

    /// Gives it attributes.
    pub(super) fn write(&self, attributes: &Attributes) -> Result<(), Errno> {
        for (attribute, value) in attributes {
            let flags = XattrFlags::empty();
            let written = match self {
                Self::Open(fd) => rustix::fs::fsetxattr(fd, attribute, value, flags),
                Self::Named(dir, name) => {
                    rustix::fs::lsetxattr(Self::way(*dir, name), attribute, value, flags)
                }
            };
            match written {
                Err(Errno::OPNOTSUPP) if attribute.to_bytes().starts_with(OF_BTRFS) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Takes all of them off but those named. What the system puts on each file by itself stays.
    pub(super) fn strip(&self, but: &[String], room: &mut Room) -> Result<(), Errno> {
        let Self::Open(fd) = self else { return Err(Errno::INVAL) };
        for name in self.names(room)? {
            if but.iter().any(|but| but.as_bytes() == name.to_bytes()) {
                continue;
            }
            match rustix::fs::fremovexattr(fd, &name) {
                Err(_) if name.to_bytes().starts_with(b"security.") => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// Whether an attribute may be on one side only: what belongs to the file system.
pub(super) fn is_file_systems(attribute: &CStr) -> bool {
    attribute.to_bytes().starts_with(OF_BTRFS)
}
