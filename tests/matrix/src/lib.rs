//! Every way to a GPU, tried with real containers: rows are ways, columns are Engines, and a cell is
//! what happened. See docs/adr/0012.
//!
//! A run brings up one node for a column and takes it through all rows. It writes one line of JSON a
//! cell; [`table`] makes docs/matrix.md of them.

pub mod cell;
pub mod column;
pub mod fixtures;
pub mod hash;
pub mod nvidia;
pub mod probe;
pub mod results;
pub mod rows;
pub mod run;
pub mod table;
pub mod trial;
