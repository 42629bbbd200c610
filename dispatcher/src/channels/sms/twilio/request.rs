//! The form of a message (Messages resource, "Create a Message"), and the question for the last ones ("Read multiple
//! Message resources").

use jiff::Timestamp;
use url::Url;
use url::form_urlencoded::{Serializer, Target};

use super::found::PAGE;

use super::options::Sender;
use crate::channels::Message;
use crate::channels::sms::text::Checked;

/// How long Twilio may keep a message in its queue, in seconds (error 21624).
const MAX_VALIDITY_SECONDS: i64 = 36_000;

/// The body of the request.
pub(super) fn form(
    message: &Message<'_>,
    checked: &Checked<'_>,
    sender: &Sender,
    receipts_url: Option<&Url>,
    now: Timestamp,
) -> String {
    let mut form = Serializer::new(String::new());
    form.append_pair("To", checked.to).append_pair("Body", checked.text);
    match sender {
        Sender::From(from) => form.append_pair("From", from),
        Sender::Service(service) => form.append_pair("MessagingServiceSid", service),
    };
    form.append_pair("ValidityPeriod", &validity_seconds(message.expires_at, now).to_string());
    if let Some(url) = receipts_url {
        let mut url = url.clone();
        url.query_pairs_mut().append_pair("ref", &message.reference().to_string());
        form.append_pair("StatusCallback", url.as_str());
    }
    form.finish()
}

/// The query for the last messages to a number.
pub(super) fn ask_for_last<T: Target>(query: &mut Serializer<'_, T>, to: &str) {
    query.append_pair("To", to).append_pair("PageSize", &PAGE.to_string());
}

/// What is left of a message's time, within what Twilio takes.
fn validity_seconds(expires_at: Timestamp, now: Timestamp) -> i64 {
    expires_at.duration_since(now).as_secs().clamp(1, MAX_VALIDITY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_stays_within_what_twilio_takes() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let seconds = |text: &str| validity_seconds(text.parse().unwrap(), now);
        assert_eq!(seconds("2026-11-22T12:10:00.9Z"), 600);
        assert_eq!(seconds("2026-11-22T22:00:00Z"), 36_000);
        assert_eq!(seconds("2026-11-29T12:00:00Z"), 36_000);
        assert_eq!(seconds("2026-11-22T12:00:00.5Z"), 1);
        assert_eq!(seconds("2026-11-22T11:00:00Z"), 1);
    }
}
