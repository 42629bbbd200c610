//! How many notifications and deliveries stand where, kept with every change so that nobody has to count.

use std::collections::BTreeMap;

use peal_common::channel::Channel;
use peal_common::event::Status;
use serde::Serialize;
use utoipa::ToSchema;

use super::codec::{Decoder, Encoder, STATUSES};
use super::row::Row;

/// One line for each channel, one for deliveries whose channel is not known yet, one for notifications.
const LINES: usize = Channel::ALL.len() + 2;
const UNKNOWN_CHANNEL: usize = Channel::ALL.len();
const NOTIFICATIONS: usize = Channel::ALL.len() + 1;

/// The numbers, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally([[u64; STATUSES.len()]; LINES]);

/// How many of what is kept stand where. States that nothing is in are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Counts {
    /// Notifications by status.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub notifications: BTreeMap<Status, u64>,
    /// Deliveries by status, over all channels.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub deliveries: BTreeMap<Status, u64>,
    /// Deliveries by channel and status.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, u64>>)]
    pub channels: BTreeMap<Channel, BTreeMap<Status, u64>>,
}

impl Tally {
    pub(super) fn add(&mut self, row: &Row) {
        self.each(row, |count| *count = count.saturating_add(1));
    }

    pub(super) fn remove(&mut self, row: &Row) {
        self.each(row, |count| *count = count.saturating_sub(1));
    }

    fn each(&mut self, row: &Row, mut change: impl FnMut(&mut u64)) {
        change(&mut self.0[NOTIFICATIONS][row.status() as usize]);
        for delivery in &row.deliveries {
            let line = delivery.channel.map_or(UNKNOWN_CHANNEL, |channel| channel as usize);
            change(&mut self.0[line][delivery.status() as usize]);
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        for count in self.0.iter().flatten() {
            out.number(*count);
        }
        out.0
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut read = Decoder(bytes);
        let mut tally = Tally::default();
        for count in tally.0.iter_mut().flatten() {
            *count = read.number()?;
        }
        read.0.is_empty().then_some(tally)
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts { notifications: line(&self.0[NOTIFICATIONS]), ..Counts::default() };
        for (place, numbers) in self.0.iter().enumerate().filter(|(place, _)| *place != NOTIFICATIONS) {
            let numbers = line(numbers);
            for (status, count) in &numbers {
                *counts.deliveries.entry(*status).or_default() += count;
            }
            if let Some(channel) = Channel::ALL.get(place)
                && !numbers.is_empty()
            {
                counts.channels.insert(*channel, numbers);
            }
        }
        counts
    }
}

fn line(numbers: &[u64; STATUSES.len()]) -> BTreeMap<Status, u64> {
    STATUSES.into_iter().zip(*numbers).filter(|(_, count)| *count > 0).collect()
}
