//! Words in a runtime's error that Docker takes for another exit code than 125. Also included by
//! tests/src/lib.rs: the fuzz targets and the end-to-end tests have no crate in common but those whose own
//! lists this one is to check.

/// All of them, in small letters.
pub const TRAPS: [&str; 5] = [
    "permission denied",
    "is a directory",
    "no such file or directory",
    "executable file not found",
    "not a directory",
];
