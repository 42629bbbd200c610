//! What is promised of text messages. Whoever is handed one that may have been sent asks the carrier, which says what it
//! has: it is sent once more only when it has nothing, and an advertisement never.

use peal_common::event::Status;

use crate::audit::{Ambiguous, called_at};
use crate::faults::Incident;
use crate::journal::Settlement;
use crate::load::Kind;

/// What is known of a text message.
#[derive(Debug)]
pub struct Text<'a> {
    /// Whether it is an advertisement.
    pub kind: Kind,
    /// How often the carrier took it.
    pub times: usize,
    /// How it ended.
    pub settlement: &'a Settlement,
    /// When each intent to send it was stored.
    pub intents_ms: &'a [i64],
}

impl Text<'_> {
    /// How often it may be called in all.
    fn most(&self) -> usize {
        if self.kind == Kind::Advertisement { 1 } else { 2 }
    }

    /// Whether its end is one, and is what it is said to be. The same end may be told twice, when a server was killed before
    /// it said that it had stored the event.
    pub fn is_kept(&self) -> bool {
        let Some(((end, _), others)) = self.settlement.statuses.split_first() else { return false };
        if others.iter().any(|(other, _)| other != end) {
            return false;
        }
        match end {
            // A second time only when the first call was still on its way when the carrier was asked, which the comparison of
            // calls and incidents has to explain.
            Status::Sent => (1..=self.most()).contains(&self.times),
            // All calls that are allowed have been begun.
            Status::Ambiguous => self.times < self.most() && self.intents_ms.len() >= self.most(),
            _ => false,
        }
    }

    /// Where nobody knows whether it was sent: at which incident it was about to be. Its intent was stored shortly before that,
    /// or before its effects were over, and its end was told afterwards.
    pub fn ambiguous(&self, incidents: &[Incident]) -> Option<Ambiguous> {
        let (_, settled_ms) =
            *self.settlement.statuses.iter().find(|(status, _)| *status == Status::Ambiguous)?;
        let was_in_flight = |incident: &Incident| {
            let called = called_at(incident);
            let was_declared = |at_ms| called.as_ref().is_some_and(|called| called.contains(at_ms));
            self.intents_ms.iter().any(was_declared) && settled_ms >= incident.at_ms
        };
        Some(Ambiguous {
            notification: self.settlement.notification.clone(),
            intents_ms: self.intents_ms.to_vec(),
            settled_ms,
            incident: incidents.iter().position(was_in_flight),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn kept(kind: Kind, times: usize, ends: &[Status], intents_ms: &[i64]) -> bool {
        let statuses = ends.iter().map(|status| (*status, 60_000)).collect();
        let settlement = Settlement { statuses, ..Settlement::default() };
        Text { kind, times, settlement: &settlement, intents_ms }.is_kept()
    }

    #[test]
    fn a_text_is_repeated_at_most_once_and_an_advertisement_never() {
        for (kind, times, ends, intents_ms, expected) in [
            (Kind::Text, 1, &[Status::Sent][..], &[1][..], true),
            (Kind::Text, 0, &[Status::Sent], &[1], false),
            (Kind::Text, 2, &[Status::Sent], &[1, 2], true),
            (Kind::Text, 3, &[Status::Sent], &[1, 2], false),
            (Kind::Advertisement, 1, &[Status::Sent], &[1], true),
            (Kind::Advertisement, 2, &[Status::Sent], &[1], false),
            (Kind::Advertisement, 0, &[Status::Ambiguous], &[1], true),
            // The carrier was asked and has it: that is known then.
            (Kind::Advertisement, 1, &[Status::Ambiguous], &[1], false),
            // It has not been tried a second time.
            (Kind::Text, 0, &[Status::Ambiguous], &[1], false),
            (Kind::Text, 0, &[Status::Ambiguous], &[1, 2], true),
            (Kind::Text, 1, &[Status::Sent, Status::Sent], &[1], true),
            (Kind::Text, 2, &[Status::Sent, Status::Ambiguous], &[1, 2], false),
            (Kind::Text, 1, &[Status::Sent, Status::Ambiguous], &[1], false),
            (Kind::Text, 1, &[Status::Delivered], &[1], false),
            (Kind::Text, 1, &[], &[1], false),
        ] {
            assert_eq!(
                kept(kind, times, ends, intents_ms),
                expected,
                "{kind:?} {times} {ends:?} {intents_ms:?}"
            );
        }
    }

    #[test]
    fn only_what_was_declared_around_an_incident_may_be_ambiguous() {
        let settlement = Settlement { statuses: vec![(Status::Ambiguous, 60_000)], ..Settlement::default() };
        let incident = Incident { repaired_ms: 20_500, ..Incident::repaired("kill", 20_000) };
        let harmless = [incident.clone()];
        let struck = [incident.resending(Duration::from_secs(1))];
        let explained = |intents_ms: &[i64], incidents: &[Incident]| {
            let text = Text { kind: Kind::Advertisement, times: 0, settlement: &settlement, intents_ms };
            text.ambiguous(incidents).expect("it is ambiguous").incident
        };
        assert_eq!(explained(&[19_000], &struck), Some(0));
        assert_eq!(explained(&[21_000], &struck), Some(0));
        for (intents_ms, incidents) in
            [(&[10_000][..], &struck[..]), (&[25_000], &struck), (&[], &struck), (&[19_000], &harmless)]
        {
            assert_eq!(explained(intents_ms, incidents), None, "{intents_ms:?}");
        }
    }
}
