//! How providers are set up. Two accounts with the same setup are one: when settings are read again, whatever stays as it is keeps
//! its connections, tokens and circuits.

use super::webhook::SigningSecret;
use super::{alimtalk, apns, email, fcm, sms, telegram, webhook, webpush};

/// A provider with all that is set of it. Secrets and certificates stand here as they were read from their files, so that one
/// that was replaced in its file makes a difference.
#[derive(Debug, PartialEq)]
pub(super) enum Setup {
    /// And the secrets that are the same for every app.
    Webhook(webhook::Options, Vec<SigningSecret>),
    Webpush(Box<webpush::Options>),
    Apns(Box<apns::Options>),
    Fcm(Box<fcm::Options>),
    Smtp(Box<email::smtp::Options>),
    Sendgrid(Box<email::sendgrid::Options>),
    Mandrill(Box<email::mandrill::Options>),
    Twilio(Box<sms::twilio::Options>),
    Vonage(Box<sms::vonage::Options>),
    SmsHttp(Box<sms::http::Options>),
    Telegram(Box<telegram::Options>),
    Aligo(Box<alimtalk::Options>),
    Inbox,
    Sandbox,
    /// The provider that it was meant for.
    Unusable(&'static str),
}
