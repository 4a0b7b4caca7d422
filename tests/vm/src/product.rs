//! placeholder
/// x
pub struct Product;
