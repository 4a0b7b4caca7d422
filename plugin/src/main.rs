//! The program `docker-gpuctl`.

fn main() {}
