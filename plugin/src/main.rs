mod gpu;
//! The program `docker-gpuctl`.

fn main() {}
