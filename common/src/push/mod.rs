//! What a sender may say about pushes beside title and text: objects in a notification's metadata, one for each provider.

pub mod apns;
pub mod fcm;

use serde_json::{Map, Value};

use crate::problem::FieldError;

/// What is wrong with the objects that are there.
pub(crate) fn check(metadata: &Map<String, Value>) -> impl Iterator<Item = FieldError> {
    let apns = apns::Overrides::of(metadata).is_none().then_some((apns::KEY, apns::ALLOWED));
    let fcm = fcm::Overrides::of(metadata).is_none().then_some((fcm::KEY, fcm::ALLOWED));
    let wrong = apns.into_iter().chain(fcm);
    wrong.map(|(key, allowed)| FieldError::new(format!("metadata.{key}"), "invalid_value", allowed))
}
