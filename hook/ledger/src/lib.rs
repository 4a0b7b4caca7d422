//! The ledger of docker-gpuctl: who holds which GPU of which node, and what every container was at
//! each of its versions.
//!
//! Four layers, each importing only those before it:
//!
//! - [`model`]: the words of the field as types; a value that exists is valid.
//! - [`rules`]: pure decisions over the model. No I/O, no clock, no environment.
//! - [`store`]: a small key-value store with revisions, on SQLite and on etcd.
//! - [`ledger`]: the typed book on top of a store: claim, activate, release, bind, record, journal.
//!
//! [`audit`] writes down what was decided. [`config`] reads `/etc/gpuctl/config.toml` for both programs, and [`node`] what the node itself
//! shows of its processes and of its own notes.

pub mod audit;
pub mod config;
pub mod grant;
pub mod keys;
pub mod ledger;
pub mod model;
pub mod node;
pub mod rules;
pub mod sharing;
pub mod store;
pub mod view;
