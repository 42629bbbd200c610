//! The domain of Peal: what a notification is, who receives it and by which rules.
//!
//! Everything here is a type or a pure function: no I/O, no async runtime, no NATS. Time and randomness come in as
//! arguments. What talks to JetStream lives in `peal-nats`, what faces the network in `peal-gateway`, what calls
//! providers in `peal-dispatcher`.

pub mod address;
pub mod attachment;
pub mod backoff;
pub mod category;
pub mod channel;
pub mod clock;
pub mod decide;
pub mod envelope;
pub mod event;
pub mod facet;
pub mod fallback;
pub mod id;
pub mod key;
pub mod notification;
pub mod outcome;
pub mod preferences;
pub mod problem;
pub mod push;
pub mod receipt;
pub mod recipient;
pub mod seal;
pub mod settings;
pub mod state;
pub mod suppression;
pub mod takeover;
pub mod template;
pub mod unsubscribe;
pub mod vapid;
