//! Pure decisions over the model: no I/O, no clock, no environment. What a rule needs it is given.

pub mod allocate;
pub mod liveness;
pub mod quarantine;
pub mod retry;
pub mod topology;
pub mod words;

#[cfg(test)]
mod proptests;
