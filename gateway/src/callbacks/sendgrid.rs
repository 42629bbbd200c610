//! SendGrid's event webhook ("Event Webhook Reference"; "Getting started with the Event Webhook Security Features").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey as _;
use peal_common::event::EventType;
use peal_common::settings::{Secret, SettingsError};
use serde_json::Value;

use super::{Posted, Refused, Report, seconds};

/// Reads a verification key as SendGrid shows it: a public key in DER and base64 (RFC 5280, SubjectPublicKeyInfo).
pub(super) fn verifying_key(key: &Secret) -> Result<VerifyingKey, SettingsError> {
    let der = STANDARD.decode(key.expose()).ok();
    der.and_then(|der| VerifyingKey::from_public_key_der(&der).ok()).ok_or_else(|| {
        SettingsError::Invalid(
            "callbacks.sendgrid.keys: write the verification key as SendGrid shows it".to_owned(),
        )
    })
}

/// What was blocked did not arrive this time.
const BLOCKED: &str = "soft_bounce";

pub(super) fn read(keys: &[VerifyingKey], posted: &Posted<'_>) -> Result<Vec<Report>, Refused> {
    let given = posted.header("x-twilio-email-event-webhook-signature").unwrap_or_default();
    let timestamp = posted.header("x-twilio-email-event-webhook-timestamp").unwrap_or_default();
    if !is_signed(keys, timestamp, posted.body, given) {
        return Err(Refused::Signature);
    }
    let Ok(Value::Array(events)) = serde_json::from_slice(posted.body) else {
        return Err(Refused::Malformed);
    };
    Ok(events.iter().filter_map(report).collect())
}

fn is_signed(keys: &[VerifyingKey], timestamp: &str, body: &[u8], signature: &str) -> bool {
    let signature = STANDARD.decode(signature).ok().and_then(|der| Signature::from_der(&der).ok());
    let Some(signature) = signature else { return false };
    let signed = [timestamp.as_bytes(), body].concat();
    keys.iter().any(|key| key.verify(&signed, &signature).is_ok())
}

/// `None` for an event of an e-mail that Peal did not send, and for one that changes nothing.
fn report(event: &Value) -> Option<Report> {
    let text = |name: &str| event[name].as_str();
    let reference = text("peal_ref")?.parse().ok()?;
    let (step, reason, is_dead) = match (text("event")?, text("type"), text("reason")) {
        ("delivered", ..) => (Some(EventType::Delivered), None, false),
        // What is blocked was refused for what it is or where it comes from; another one may arrive.
        ("bounce", Some("blocked"), _) => (Some(EventType::Bounced), Some(BLOCKED), false),
        ("bounce", ..) => (Some(EventType::Bounced), Some("hard_bounce"), true),
        // SendGrid keeps lists of its own, and does not even try.
        ("dropped", _, Some("Bounced Address" | "Invalid")) => {
            (Some(EventType::Bounced), Some("hard_bounce"), true)
        }
        ("dropped", _, Some("Spam Reporting Address")) => (Some(EventType::Bounced), Some("complaint"), true),
        ("dropped", _, Some("Unsubscribed Address")) => {
            (Some(EventType::Bounced), Some("unsubscribed"), true)
        }
        ("dropped", ..) => (Some(EventType::Bounced), Some("dropped"), false),
        ("open", ..) => (Some(EventType::Opened), None, false),
        ("click", ..) => (Some(EventType::Clicked), None, false),
        ("spamreport", ..) => (None, Some("complaint"), true),
        // Peal names no groups: whoever leaves one, leaves what Peal sends.
        ("unsubscribe" | "group_unsubscribe", ..) => (None, Some("unsubscribed"), true),
        // `group_resubscribe` lifts nothing: the address may have been unsubscribed in another way, too, and a suppression
        // keeps its first reason only. Whoever knows better lifts it.
        _ => return None,
    };
    Some(Report::Delivery {
        reference,
        step,
        // The receiving server did not want it at that moment; the address is not at fault.
        passes: reason == Some(BLOCKED),
        at: seconds(&event["timestamp"]),
        reason: reason.map(str::to_owned),
        provider_id: text("sg_message_id").map(str::to_owned),
        dead: text("email").zip(reason).filter(|_| is_dead).map(|(to, why)| (to.to_owned(), why.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::callbacks::in_words;

    /// All events of the "Event Webhook Reference", with every `type` of a bounce and every `reason` of a drop.
    #[test]
    fn events_mean_what_the_reference_says() {
        for (event, kind, reason, meaning) in [
            ("processed", "", "", ""),
            ("deferred", "", "", ""),
            ("delivered", "", "", "delivered"),
            ("bounce", "bounce", "550 5.1.1 user unknown", "bounced hard_bounce suppressed"),
            ("bounce", "", "", "bounced hard_bounce suppressed"),
            ("bounce", "blocked", "554 5.7.1 refused", "bounced soft_bounce again"),
            ("dropped", "", "Bounced Address", "bounced hard_bounce suppressed"),
            ("dropped", "", "Invalid", "bounced hard_bounce suppressed"),
            ("dropped", "", "Spam Reporting Address", "bounced complaint suppressed"),
            ("dropped", "", "Unsubscribed Address", "bounced unsubscribed suppressed"),
            ("dropped", "", "Invalid SMTPAPI header", "bounced dropped"),
            ("dropped", "", "Spam Content", "bounced dropped"),
            ("dropped", "", "Recipient List over Package Quota", "bounced dropped"),
            ("dropped", "", "", "bounced dropped"),
            ("open", "", "", "opened"),
            ("click", "", "", "clicked"),
            ("spamreport", "", "", "complaint suppressed"),
            ("unsubscribe", "", "", "unsubscribed suppressed"),
            ("group_unsubscribe", "", "", "unsubscribed suppressed"),
            ("group_resubscribe", "", "", ""),
            ("account_status_change", "compliance_suspend", "", ""),
            ("", "", "", ""),
        ] {
            let mut posted = json!({"email": "kim@example.com", "event": event, "timestamp": 1_795_464_000,
                "sg_message_id": "S1.filter", "peal_ref": "eu.shop.order-1.0123456789abcdef0123456789abcdef"});
            for (name, value) in [("type", kind), ("reason", reason)] {
                if !value.is_empty() {
                    posted[name] = json!(value);
                }
            }
            assert_eq!(in_words(report(&posted)), meaning, "{posted}");
            posted.as_object_mut().unwrap().remove("peal_ref");
            assert_eq!(report(&posted), None, "an e-mail of somebody else's");
        }
    }

    /// The example of SendGrid's own libraries (`eventwebhook`).
    #[test]
    fn the_published_example_is_valid_and_nothing_near_it() {
        let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
        let signature = "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";
        let timestamp = "1600112502";
        let body = "[{\"email\":\"hello@world.com\",\"event\":\"dropped\",\"reason\":\"Bounced Address\",\
                    \"sg_event_id\":\"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA\",\
                    \"sg_message_id\":\"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0\",\
                    \"smtp-id\":\"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>\",\
                    \"timestamp\":1600112492}]\r\n";
        let keys = [verifying_key(&Secret::from(key.to_owned())).unwrap()];
        assert!(is_signed(&keys, timestamp, body.as_bytes(), signature));
        assert!(!is_signed(&keys, "1600112503", body.as_bytes(), signature));
        assert!(!is_signed(&keys, timestamp, body.trim_end().as_bytes(), signature));
        assert!(!is_signed(&[], timestamp, body.as_bytes(), signature));
        for bad in ["", "x", &signature[4..], "MEUC"] {
            assert!(!is_signed(&keys, timestamp, body.as_bytes(), bad), "{bad}");
        }
        assert!(
            verifying_key(&Secret::from("SG.x".to_owned()))
                .unwrap_err()
                .to_string()
                .contains("sendgrid.keys")
        );
    }
}
