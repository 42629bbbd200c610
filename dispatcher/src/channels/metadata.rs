//! What a sender passed along, for the app on a device or in a browser.

use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};

use peal_common::push::{apns, fcm};

/// What is meant for the providers of pushes rather than for an app. It takes room that a push has little of, and what is said
/// to one provider is no business of another's.
const FOR_PROVIDERS: [&str; 2] = [apns::KEY, fcm::KEY];

/// The metadata without what is meant for providers.
#[derive(Debug, Clone, Copy)]
pub(super) struct ForApp<'a>(pub(super) &'a Map<String, Value>);

impl<'a> ForApp<'a> {
    fn rest(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.0.iter().filter(|(key, _)| !FOR_PROVIDERS.contains(&key.as_str()))
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.rest().next().is_none()
    }
}

impl Serialize for ForApp<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.rest())
    }
}
