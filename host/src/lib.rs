//! Tidegate runs WebAssembly handlers on Redis Streams.
//!
//! The rooms, in the order in which a message passes through them; imports
//! point the same way. ARCHITECTURE.md walks with one message.

pub mod message;
pub mod outcome;

pub mod manifest;

pub mod broker;
pub mod sandbox;

pub mod dispatch;

pub mod host;
pub mod rehearsal;

pub mod admin;

pub mod cli;
pub mod demo;

pub mod figures;
pub mod health;
pub mod shutdown;
pub mod telemetry;
