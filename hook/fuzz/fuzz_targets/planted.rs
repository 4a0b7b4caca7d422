#![no_main]
//! A bug planted for the runner to find: chance alone would need some 2^64 tries, a guided fuzzer
//! seconds. What does not find this one finds nothing, and ./run says so.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut depth = 0;
    for (have, wanted) in data.iter().zip(b"leases!\n") {
        if have != wanted {
            return;
        }
        depth += 1;
    }
    assert!(depth < 8, "the planted bug");
});
