//! One register of a record of state: its value, when that was written, and the denials that guard it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Stamp;

/// The latest stamp of each region, in the order of the regions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatestStamps(Vec<Stamp>);

impl LatestStamps {
    /// Adds a stamp, unless a later one of its region is there.
    fn add(&mut self, stamp: Stamp) {
        match self.0.binary_search_by(|known| known.region.cmp(&stamp.region)) {
            Ok(place) => {
                if self.0[place] < stamp {
                    self.0[place] = stamp;
                }
            }
            Err(place) => self.0.insert(place, stamp),
        }
    }

    /// Whether there is a stamp that is later than what `other` has of its region, and than `all`.
    fn has_later_than(&self, other: &LatestStamps, all: Option<&Stamp>) -> bool {
        let is_seen = |stamp: &Stamp| other.0.iter().any(|seen| seen.region == stamp.region && seen >= stamp);
        self.0.iter().any(|stamp| Some(stamp) > all && !is_seen(stamp))
    }

    fn merge(&mut self, other: LatestStamps) {
        other.0.into_iter().for_each(|stamp| self.add(stamp));
    }

    /// The latest of all, and the others.
    fn split(mut self) -> (Option<Stamp>, Vec<Stamp>) {
        let latest = self.0.iter().max().cloned();
        self.0.retain(|stamp| Some(stamp) != latest.as_ref());
        (latest, self.0)
    }

    fn joined(latest: Option<Stamp>, others: Vec<Stamp>) -> Self {
        let mut all = LatestStamps::default();
        latest.into_iter().chain(others).for_each(|stamp| all.add(stamp));
        all
    }
}

/// One register of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenFacet", into = "WrittenFacet")]
pub struct Facet {
    /// When the value was written.
    pub stamp: Stamp,
    /// The value; null is "not set".
    pub value: Value,
    /// The latest denial of each region, for guarded facets.
    pub denied: LatestStamps,
    /// Those of them that a later writer had seen when it set something else.
    pub cleared: LatestStamps,
    /// Earlier builds said up to when all denials were lifted, of whatever region.
    pub cleared_until: Option<Stamp>,
}

/// A register as it stands in a stream. What is not the latest denial is written apart, since earlier builds know one alone;
/// where `other_c` is missing, one of them wrote `c`.
#[derive(Serialize, Deserialize)]
struct WrittenFacet {
    s: Stamp,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    v: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    d: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    c: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    other_d: Vec<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other_c: Option<Vec<Stamp>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    all_c: Option<Stamp>,
}

impl From<WrittenFacet> for Facet {
    fn from(written: WrittenFacet) -> Self {
        let (cleared, cleared_until) = match written.other_c {
            Some(others) => (LatestStamps::joined(written.c, others), written.all_c),
            None => (LatestStamps::default(), written.all_c.max(written.c)),
        };
        Facet {
            stamp: written.s,
            value: written.v,
            denied: LatestStamps::joined(written.d, written.other_d),
            cleared,
            cleared_until,
        }
    }
}

impl From<Facet> for WrittenFacet {
    fn from(facet: Facet) -> Self {
        let ((d, other_d), (c, other_c)) = (facet.denied.split(), facet.cleared.split());
        let (c, other_c, all_c) = match c {
            Some(c) => (Some(c), Some(other_c), facet.cleared_until),
            None => (facet.cleared_until, None, None),
        };
        WrittenFacet { s: facet.stamp, v: facet.value, d, c, other_d, other_c, all_c }
    }
}

impl Facet {
    pub(crate) fn new(value: Value, stamp: &Stamp) -> Self {
        let (denied, cleared) = Default::default();
        Facet { stamp: stamp.clone(), value, denied, cleared, cleared_until: None }
    }

    /// A guarded one in place of the `old` one, whose denials are lifted unless it denies.
    pub(crate) fn guarded(value: Option<bool>, stamp: &Stamp, old: Option<Facet>) -> Self {
        let mut facet = Facet::new(value.map_or(Value::Null, Value::Bool), stamp);
        if let Some(Facet { denied, cleared, cleared_until, .. }) = old {
            facet = Facet { denied, cleared, cleared_until, ..facet };
        }
        match value {
            Some(false) => facet.denied.add(stamp.clone()),
            _ => facet.cleared.merge(facet.denied.clone()),
        }
        facet
    }

    /// Whether a denial stands that nobody who saw it has lifted.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.denied.has_later_than(&self.cleared, self.cleared_until.as_ref())
    }

    pub(crate) fn merge(&mut self, other: Facet) {
        let later = (&other.stamp, other.value.to_string()) > (&self.stamp, self.value.to_string());
        if later {
            self.stamp = other.stamp;
            self.value = other.value;
        }
        self.denied.merge(other.denied);
        self.cleared.merge(other.cleared);
        self.cleared_until = self.cleared_until.take().max(other.cleared_until);
    }
}
