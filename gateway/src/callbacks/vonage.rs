//! Vonage's delivery receipts (SMS API, "Delivery Receipts"), in JSON or as a form. They are signed by a token ("Webhooks,
//! Signed webhooks"), or in the older way by the field `sig` ("SMS API, Message signatures") with HMAC and SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use peal_common::event::EventType;
use peal_common::settings::Secret;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Posted, Refused, Report, field};

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    /// SHA-256 of the body, in hexadecimal digits.
    payload_hash: String,
}

pub(super) fn read(keys: &[Secret], posted: &Posted<'_>) -> Result<Vec<Report>, Refused> {
    let fields = fields(posted);
    let token = posted.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let is_signed = match token {
        Some(token) => keys.iter().any(|key| signs_token(key, token, posted.body)),
        None => fields.as_ref().is_some_and(|fields| keys.iter().any(|key| signs_fields(key, fields))),
    };
    if !is_signed {
        return Err(Refused::Signature);
    }
    let fields = fields.ok_or(Refused::Malformed)?;
    if field(&fields, "status").is_none() {
        return Err(Refused::Malformed);
    }
    Ok(report(&fields).into_iter().collect())
}

/// `None` for a message that Peal did not send, and for a status that changes nothing.
fn report(fields: &[(String, String)]) -> Option<Report> {
    let reference = field(fields, "client-ref")?.parse().ok()?;
    let status = field(fields, "status")?;
    let step = match status {
        "delivered" => EventType::Delivered,
        "failed" | "rejected" | "expired" => EventType::Bounced,
        _ => return None,
    };
    let bounced = step == EventType::Bounced;
    let code = field(fields, "err-code").filter(|code| code.parse::<u16>().is_ok_and(|code| code > 0));
    let reason = bounced.then(|| code.map_or_else(|| status.to_owned(), |code| format!("vonage_{code}")));
    // Gone for good, barred by the recipient, no such number.
    let is_dead = bounced && matches!(code, Some("3" | "4" | "9"));
    let to = field(fields, "msisdn").map(|digits| format!("+{}", digits.trim_start_matches('+')));
    Some(Report::Delivery {
        reference,
        step: Some(step),
        at: None,
        dead: reason.clone().filter(|_| is_dead).zip(to).map(|(reason, to)| (to, reason)),
        reason,
        // Each part of a long message is reported under a name of its own, and only the first one's is known: a part of the
        // sending before could not be told from one of the sending after it.
        passes: false,
        provider_id: field(fields, "messageId").map(str::to_owned),
    })
}

/// The fields, in whichever way they are written.
fn fields(posted: &Posted<'_>) -> Option<Vec<(String, String)>> {
    if !posted.header("content-type").unwrap_or_default().starts_with("application/json") {
        return Some(posted.form());
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice(posted.body) else { return None };
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Some(fields.into_iter().map(|(name, value)| (name, text(value))).collect())
}

/// Whether a key made a token (RFC 7515, HS256) for a body.
fn signs_token(key: &Secret, token: &str, body: &[u8]) -> bool {
    let Some((signed, signature)) = token.rsplit_once('.') else { return false };
    let Some((header, claims)) = signed.split_once('.') else { return false };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let Some(header) = decode(header).and_then(|json| serde_json::from_slice::<Header>(&json).ok()) else {
        return false;
    };
    let (Some(signature), Ok(mut mac)) =
        (decode(signature), Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()))
    else {
        return false;
    };
    mac.update(signed.as_bytes());
    if header.alg != "HS256" || mac.verify_slice(&signature).is_err() {
        return false;
    }
    let claims = decode(claims).and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    claims.is_some_and(|claims| claims.payload_hash.eq_ignore_ascii_case(&hex(&Sha256::digest(body))))
}

/// Whether a key made the field `sig` for the others.
fn signs_fields(key: &Secret, fields: &[(String, String)]) -> bool {
    let Some(signature) = field(fields, "sig").and_then(unhex) else { return false };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()) else { return false };
    let mut others: Vec<_> = fields.iter().filter(|(name, _)| name != "sig").collect();
    others.sort();
    for (name, value) in others {
        mac.update(format!("&{name}={}", value.replace(['&', '='], "_")).as_bytes());
    }
    mac.verify_slice(&signature).is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::callbacks::in_words;

    const SECRET: &str = "a signature secret of 32 letters!";
    const REFERENCE: &str = "eu.shop.order-1.0123456789abcdef0123456789abcdef";
    /// Made by PyJWT 2.15.1 for [`BODY`].
    const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpYXQiOjE3OTU0NjQwMDAsImp0aSI6ImFhYWEiLCJpc3MiOiJWb25hZ2UiLCJwYXlsb2FkX2hhc2giOiJhMjdlYTc4ZDk0ZjNkZDk0NGQ3YTQ1MjlkZDI2YjAxYjc2NmY1ODZkZWE5YzBiNTJjOGEzZjIyZDlhYzMxZmRhIiwiYXBpX2tleSI6ImFiY2QxMjM0In0.nFmGeCarKdvhqATkQe3XI-6HHlJ0Qx74mSBJmu-paoQ";
    const BODY: &str = r#"{"msisdn":"821012345678","to":"Shop","network-code":"45005","messageId":"0A0000001234567B","price":"0.03330000","status":"failed","scts":"2001011400","err-code":"9","api-key":"abcd1234","client-ref":"eu.shop.order-1.0123456789abcdef0123456789abcdef","message-timestamp":"2026-11-23 12:00:00"}"#;

    fn posted(token: Option<&str>, kind: &str, body: &str) -> Result<Vec<Report>, Refused> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_str(kind).unwrap());
        if let Some(token) = token {
            headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        }
        let keys = [Secret::from("other".to_owned()), Secret::from(SECRET.to_owned())];
        read(&keys, &Posted { url: String::new(), query: None, headers: &headers, body: body.as_bytes() })
    }

    fn meaning(status: &str, code: &str) -> String {
        let fields = [
            ("msisdn", "821012345678"),
            ("messageId", "0A01"),
            ("client-ref", REFERENCE),
            ("status", status),
            ("err-code", code),
        ];
        in_words(report(&fields.map(|(name, value)| (name.to_owned(), value.to_owned()))))
    }

    /// All of "DLR status messages" and "DLR error codes".
    #[test]
    fn statuses_and_codes_mean_what_the_guide_says() {
        for (status, expected) in [
            ("accepted", ""),
            ("buffered", ""),
            ("unknown", ""),
            ("delivered", "delivered"),
            ("expired", "bounced expired"),
            ("failed", "bounced failed"),
            ("rejected", "bounced rejected"),
            ("", ""),
        ] {
            for code in ["0", "", "none"] {
                assert_eq!(meaning(status, code), expected, "{status} {code:?}");
            }
        }
        let documented = (1..=16).chain(50..=54).chain([99]);
        for code in documented {
            // No longer active, barred by its user, asked not to be written to.
            let then = if matches!(code, 3 | 4 | 9) { " suppressed" } else { "" };
            let code = code.to_string();
            for status in ["failed", "rejected", "expired"] {
                assert_eq!(meaning(status, &code), format!("bounced vonage_{code}{then}"), "{status}");
            }
            assert_eq!(meaning("delivered", &code), "delivered");
            assert_eq!(meaning("buffered", &code), "");
        }
        let foreign = [("status", "failed"), ("err-code", "3"), ("client-ref", "mine"), ("msisdn", "8210")];
        assert_eq!(report(&foreign.map(|(name, value)| (name.to_owned(), value.to_owned()))), None);
    }

    #[test]
    fn a_token_counts_for_its_body_alone() {
        let report = Report::Delivery {
            reference: REFERENCE.parse().unwrap(),
            step: Some(EventType::Bounced),
            at: None,
            reason: Some("vonage_9".to_owned()),
            provider_id: Some("0A0000001234567B".to_owned()),
            dead: Some(("+821012345678".to_owned(), "vonage_9".to_owned())),
            passes: false,
        };
        assert_eq!(posted(Some(TOKEN), "application/json; charset=utf-8", BODY), Ok(vec![report]));
        let other = BODY.replace("failed", "delivered");
        assert_eq!(posted(Some(TOKEN), "application/json", &other), Err(Refused::Signature));
        assert_eq!(posted(None, "application/json", BODY), Err(Refused::Signature));
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let unsigned = format!("{none}.{}.", TOKEN.split('.').nth(1).unwrap());
        for bad in ["", ".", "..", "a.b.c", &unsigned, &TOKEN[..TOKEN.len() - 2]] {
            assert_eq!(posted(Some(bad), "application/json", BODY), Err(Refused::Signature), "{bad}");
        }
    }

    /// The signature was made by Vonage's own library (PyPI `vonage` 2.5.5, `Client.signature` with `sha256`).
    #[test]
    fn fields_are_signed_in_the_older_way_too() {
        let fields = [
            ("msisdn", "821012345678"),
            ("status", "delivered"),
            ("err-code", "0"),
            ("client-ref", REFERENCE),
            ("to", "A&B=C"),
            ("timestamp", "1795464000"),
            ("nonce", "n-1"),
            ("messageId", "0A01"),
            ("sig", "3bc533271b916e43287776912555924b36db7ae949e02680d86e1cb41a44d41a"),
        ];
        let form = |fields: &[(&str, &str)]| {
            form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
        };
        let kind = "application/x-www-form-urlencoded";
        let reports = posted(None, kind, &form(&fields)).unwrap();
        assert!(matches!(
            &reports[..],
            [Report::Delivery { step: Some(EventType::Delivered), dead: None, .. }]
        ));
        let json: serde_json::Map<_, _> =
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        assert_eq!(posted(None, "application/json", &Value::Object(json).to_string()), Ok(reports));
        assert_eq!(posted(None, kind, &form(&fields[1..])), Err(Refused::Signature));
        assert_eq!(posted(None, kind, &form(&fields[..8])), Err(Refused::Signature));
        assert_eq!(posted(None, "application/json", "[]"), Err(Refused::Signature));
    }
}
