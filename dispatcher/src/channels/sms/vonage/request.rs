//! The form of a message (SMS API reference, "Send an SMS").

use jiff::Timestamp;
use url::form_urlencoded::Serializer;

use peal_common::template::sms::Encoding;

use super::Options;
use crate::channels::Message;
use crate::channels::sms::text::Checked;

/// The range of `ttl`, in milliseconds.
const MIN_TTL_MS: i128 = 20_000;
const MAX_TTL_MS: i128 = 604_800_000;
/// The longest `client-ref`.
const MAX_CLIENT_REF_CHARS: usize = 100;

/// The body of the request.
pub(super) fn form(
    message: &Message<'_>,
    checked: &Checked<'_>,
    options: &Options,
    now: Timestamp,
) -> String {
    let mut form = Serializer::new(String::new());
    form.append_pair("api_key", &options.key)
        .append_pair("api_secret", options.secret.expose())
        .append_pair("from", &options.from)
        .append_pair("to", checked.to.trim_start_matches('+'))
        .append_pair("text", checked.text);
    // With the type `text` Vonage replaces what the GSM alphabet lacks.
    if checked.size.encoding == Encoding::Ucs2 {
        form.append_pair("type", "unicode");
    }
    form.append_pair("ttl", &ttl_ms(message.expires_at, now).to_string());
    let reference = message.reference().to_string();
    if reference.len() <= MAX_CLIENT_REF_CHARS {
        form.append_pair("client-ref", &reference);
    }
    if let Some(url) = &options.receipts_url {
        form.append_pair("callback", url.as_str());
    }
    form.finish()
}

/// What is left of a message's time, within what Vonage takes.
fn ttl_ms(expires_at: Timestamp, now: Timestamp) -> i128 {
    expires_at.duration_since(now).as_millis().clamp(MIN_TTL_MS, MAX_TTL_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_stays_within_what_vonage_takes() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let ms = |text: &str| ttl_ms(text.parse().unwrap(), now);
        assert_eq!(ms("2026-11-22T12:10:00.9Z"), 600_900);
        assert_eq!(ms("2026-12-22T12:00:00Z"), 604_800_000);
        assert_eq!(ms("2026-11-22T12:00:01Z"), 20_000);
        assert_eq!(ms("2026-11-22T11:00:00Z"), 20_000);
    }
}
