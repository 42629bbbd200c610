//! The channels against recording providers, over real sockets.

mod fixture;
mod peers;
mod smtp;
mod smtp_faults;
mod telegram;
mod webhook;
mod webhook_targets;
mod webpush;
