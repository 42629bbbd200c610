//! The channels against recording providers, over real sockets.

mod alimtalk;
mod apns;
mod apns_http2;
mod fcm;
mod fcm_http2;
mod fcm_schema;
mod fcm_token;
mod fixture;
pub mod http2_peer;
mod mail_reader;
mod mandrill;
mod peers;
mod senders;
mod sendgrid;
mod sms_http;
mod smtp;
mod smtp_faults;
mod smtp_sink;
mod standard_webhooks;
mod telegram;
mod toxiproxy;
mod twilio;
mod vonage;
mod webhook;
mod webhook_targets;
mod webpush;
mod wiremock;
