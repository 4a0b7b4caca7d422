#![no_main]
//! A bug planted for the runner to find: chance alone would need some 2^48 tries, a fuzzer that sees
//! each comparison come true needs seconds. What does not find this one finds nothing, and ./run says so.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let is = |at: usize, byte: u8| data.get(at) == Some(&byte);
    if is(0, b'l') {
        if is(1, b'e') {
            if is(2, b'a') {
                if is(3, b's') {
                    if is(4, b'e') {
                        if is(5, b'!') {
                            panic!("the planted bug");
                        }
                    }
                }
            }
        }
    }
});
