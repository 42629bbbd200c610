//! What happens when something breaks: real processes, killed, stopped and starved while notifications flow.
//!
//! Each test runs a [`region`] of its own: a nats-server, a gateway and dispatchers as processes, on free ports and in a
//! folder of its own. A [`provider`] in this process records every webhook and every text message: it is the oracle, since
//! it knows nothing of Peal's own bookkeeping. A [`load`] sends notifications and repeats each until it has an answer,
//! [`faults`] has a file for each thing that can break, [`schedule`] decides by a seed when it does, [`journal`] reads what
//! the streams say became of everything, and [`audit`] compares the three; what is promised of [`texts`] is apart. [`spread`]
//! follows changes of the state. [`scenarios`] has a file for each test.
//!
//! What is about more than webhooks has [`channels`], all with recording providers. [`points`] are the steps of a delivery at
//! which a dispatcher is killed, and what is promised then; [`pace`] tells how fast and how soon things come.
//!
//! [`report`] is the table of all of it. `PEAL_FAULT_SEED=N` has the random runs of a [`plan`] again, which say how they are
//! made longer; `PEAL_FAULT_KEEP=1` leaves the folders with all logs behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test ends at the first thing that fails and prints what it found; the lints exempt only test functions"
)]

mod scenarios;

mod faults;
mod plan;
mod schedule;

mod channels;
mod load;
mod pace;
mod points;
mod provider;
mod region;

mod audit;
mod clock;
mod disk;
mod journal;
mod report;
mod spread;
mod texts;

mod wait;
