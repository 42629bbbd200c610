//! The request of one push (Apple, "Sending notification requests to APNs").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use reqwest::{Method, Request};
use sha2::{Digest as _, Sha256};
use url::Url;

use peal_common::channel::Priority;
use peal_common::outcome::Outcome;
use peal_common::push::apns::{Overrides, PushType};
use peal_common::template::size::MAX_APNS_BYTES;

use super::payload::{Payload, Refused};
use crate::channels::outcomes::permanent;
use crate::channels::{Message, http as shared};

pub(super) const APNS_ID: HeaderName = HeaderName::from_static("apns-id");
const TOPIC: HeaderName = HeaderName::from_static("apns-topic");
const PUSH_TYPE: HeaderName = HeaderName::from_static("apns-push-type");
const PRIORITY: HeaderName = HeaderName::from_static("apns-priority");
const EXPIRATION: HeaderName = HeaderName::from_static("apns-expiration");
const COLLAPSE_ID: HeaderName = HeaderName::from_static("apns-collapse-id");
/// The longest collapse id, in bytes.
const MAX_COLLAPSE_ID: usize = 64;
/// The token of no device, in the form of one.
const NOBODY: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Longer than any bundle id that Apple gives out.
const MAX_TOPIC: usize = 255;

/// The request that delivers `message`. `topic` is for contacts that bring none.
pub(super) fn request(
    message: &Message<'_>,
    devices: &Url,
    topic: Option<&HeaderValue>,
    authorization: HeaderValue,
) -> Result<Request, Outcome> {
    let url = device(message, devices)?;
    let topic = topic_of(message, topic)?;
    let overrides = Overrides::of(message.metadata).ok_or_else(|| permanent("invalid_metadata"))?;
    let payload = Payload::of(message, &overrides).map_err(refused)?;
    let headers = headers(message, topic, payload.push_type, authorization)
        .ok_or_else(|| permanent("invalid_request"))?;
    let mut request = Request::new(Method::POST, url);
    *request.headers_mut() = headers;
    *request.body_mut() = Some(payload.bytes.into());
    Ok(request)
}

/// A request for a device that no one has: its answer tells whether account and topic are in order.
pub(super) fn to_nobody(devices: &Url, topic: &HeaderValue, authorization: HeaderValue) -> Request {
    let mut url = devices.clone();
    shared::add_path(&mut url, [NOBODY]);
    let mut request = Request::new(Method::POST, url);
    let headers = request.headers_mut();
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(TOPIC, topic.clone());
    headers.insert(PUSH_TYPE, HeaderValue::from_static("alert"));
    *request.body_mut() = Some(r#"{"aps":{"alert":"peal doctor"}}"#.into());
    request
}

fn refused(refused: Refused) -> Outcome {
    match refused {
        Refused::Empty => permanent("message_empty"),
        Refused::TooLarge(bytes) => {
            permanent(format!("payload_too_large: {bytes} of {MAX_APNS_BYTES} bytes"))
        }
        Refused::Unwritable => permanent("invalid_request"),
    }
}

/// The path of the contact's device. Whether there is such a device is for Apple to say, also when the token is no
/// hexadecimal number; one that would be lost from the path names none.
fn device(message: &Message<'_>, devices: &Url) -> Result<Url, Outcome> {
    let token = message.contact.token.as_deref().unwrap_or_default();
    if matches!(token, "" | "." | "..") {
        return Err(permanent("invalid_address"));
    }
    let mut url = devices.clone();
    shared::add_path(&mut url, [token]);
    Ok(url)
}

fn topic_of(message: &Message<'_>, otherwise: Option<&HeaderValue>) -> Result<HeaderValue, Outcome> {
    match message.contact.topic.as_deref().filter(|own| !own.is_empty()) {
        Some(own) => topic(own).ok_or_else(|| permanent("invalid_topic")),
        None => otherwise.cloned().ok_or_else(|| permanent("missing_topic")),
    }
}

/// A topic: a bundle id, with the suffix that some kinds of push want. `None` when it can't be one.
pub(super) fn topic(text: &str) -> Option<HeaderValue> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if text.is_empty() || text.len() > MAX_TOPIC || !text.bytes().all(plain) {
        return None;
    }
    HeaderValue::from_str(text).ok()
}

fn headers(
    message: &Message<'_>,
    topic: HeaderValue,
    push_type: PushType,
    authorization: HeaderValue,
) -> Option<HeaderMap> {
    let (push_type, priority) = match push_type {
        // 10 delivers at once, 5 with regard to the device's battery; for background pushes 10 is an error.
        PushType::Background => ("background", "5"),
        PushType::Alert if message.priority == Priority::Bulk => ("alert", "5"),
        PushType::Alert => ("alert", "10"),
    };
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(TOPIC, topic);
    headers.insert(PUSH_TYPE, HeaderValue::from_static(push_type));
    headers.insert(PRIORITY, HeaderValue::from_static(priority));
    headers.insert(APNS_ID, once(HeaderValue::try_from(apns_id(message.delivery.as_str())?).ok()?));
    headers.insert(EXPIRATION, once(expiration(message.expires_at).into()));
    headers.insert(COLLAPSE_ID, once(HeaderValue::try_from(collapse_id(message)).ok()?));
    Some(headers)
}

/// A value that no other push has: it is kept out of the table with which both sides shorten values that come again
/// (RFC 7541 §6.2.3), or it would drive those out.
fn once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// The push's UUID in lower case: the delivery's own name, which is the beginning of a SHA-256, in the form that RFC
/// 9562 §5.8 and appendix B.2 have for that. A repetition has the same. `None` when the delivery's name is no such
/// number.
fn apns_id(delivery: &str) -> Option<String> {
    const VERSION: u128 = 0x8 << 76;
    const VARIANT: u128 = 0b10 << 62;
    let name = u128::from_str_radix(delivery, 16).ok()?;
    let id = name & !(0xf << 76) & !(0b11 << 62) | VERSION | VARIANT;
    Some(format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        id >> 96,
        id >> 80 & 0xffff,
        id >> 64 & 0xffff,
        id >> 48 & 0xffff,
        id & 0xffff_ffff_ffff
    ))
}

/// Until when Apple keeps the push for a device that can't be reached, in seconds since the epoch. 0 would mean not at
/// all.
fn expiration(expires_at: Timestamp) -> u64 {
    u64::try_from(expires_at.as_second()).unwrap_or_default().max(1)
}

/// What makes a push take the place of an earlier one, also of one that is shown: the collapse key, or else the
/// delivery, so that a push that is sent twice is seen once. The app finds it as the notification's identifier; a key
/// that is too long for that, or is no ASCII, is hashed.
fn collapse_id(message: &Message<'_>) -> String {
    let Some(key) = message.collapse_key else { return message.delivery.as_str().to_owned() };
    if key.len() <= MAX_COLLAPSE_ID && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return key.to_owned();
    }
    let mut digest = Sha256::new();
    digest.update(message.app.as_str());
    digest.update([0]);
    digest.update(key);
    URL_SAFE_NO_PAD.encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_the_eighth_version() {
        assert_eq!(
            apns_id("0123456789abcdef0123456789abcdef").unwrap(),
            "01234567-89ab-8def-8123-456789abcdef"
        );
        assert_eq!(
            apns_id("ffffffffffffffffffffffffffffffff").unwrap(),
            "ffffffff-ffff-8fff-bfff-ffffffffffff"
        );
        assert_eq!(
            apns_id("00000000000000000000000000000000").unwrap(),
            "00000000-0000-8000-8000-000000000000"
        );
        assert_eq!(apns_id("order-1042"), None);
    }

    #[test]
    fn a_push_always_expires_some_time() {
        let cases = [(-5, 1), (0, 1), (1_700_000_000, 1_700_000_000)];
        for (seconds, expected) in cases {
            assert_eq!(expiration(Timestamp::from_second(seconds).unwrap()), expected);
        }
    }

    #[test]
    fn topics_are_bundle_ids() {
        assert_eq!(topic("com.example.my-app_2").unwrap(), "com.example.my-app_2");
        for bad in ["", "com.example app", "com.example\r\n", "com.ex\u{e4}mple", &"a".repeat(256)] {
            assert_eq!(topic(bad), None, "{bad:?}");
        }
    }
}
