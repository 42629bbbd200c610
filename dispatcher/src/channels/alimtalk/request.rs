//! The forms of Aligo's calls.

use serde_json::json;
use url::form_urlencoded::Serializer;

use peal_common::template::{Button, ButtonKind};

use super::Options;

/// A message of a batch.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// The number as it is dialled in Korea.
    pub(super) receiver: String,
    pub(super) title: Option<String>,
    pub(super) text: String,
    pub(super) buttons: Vec<Button>,
}

/// Who calls.
fn begin(options: &Options) -> Serializer<'static, String> {
    let mut form = Serializer::new(String::new());
    form.append_pair("apikey", options.key.expose()).append_pair("userid", &options.user);
    form
}

/// `template/list`: all texts of the channel.
pub(super) fn list(options: &Options) -> String {
    begin(options).append_pair("senderkey", options.sender_key.expose()).finish()
}

/// `history/detail`: what became of a batch of at most 500.
pub(super) fn detail(options: &Options, batch: &str) -> String {
    begin(options).append_pair("mid", batch).append_pair("page", "1").append_pair("limit", "500").finish()
}

/// `history/list`: the last batches of some days, the latest first. Days are written like `20261127`.
pub(super) fn history(options: &Options, from: &str, until: &str) -> String {
    begin(options)
        .append_pair("page", "1")
        .append_pair("limit", "500")
        .append_pair("startdate", from)
        .append_pair("enddate", until)
        .finish()
}

/// `alimtalk/send`: up to 500 messages of one text.
pub(super) fn send<'a>(
    options: &Options,
    code: &str,
    messages: impl IntoIterator<Item = &'a Prepared>,
) -> String {
    let mut form = begin(options);
    form.append_pair("senderkey", options.sender_key.expose())
        .append_pair("tpl_code", code)
        .append_pair("sender", &options.sender);
    if options.failover {
        form.append_pair("failover", "Y");
    }
    if options.test_mode {
        form.append_pair("testMode", "Y");
    }
    for (at, message) in messages.into_iter().enumerate() {
        let number = at + 1;
        let mut field = |name: &str, value: &str| {
            form.append_pair(&format!("{name}_{number}"), value);
        };
        // Aligo wants a subject. It is shown in its own lists alone.
        let subject = message.title.as_deref().unwrap_or(code);
        field("receiver", &message.receiver);
        field("subject", subject);
        field("message", &message.text);
        if let Some(title) = &message.title {
            field("emtitle", title);
        }
        if !message.buttons.is_empty() {
            let buttons: Vec<_> = message.buttons.iter().map(button).collect();
            field("button", &json!({ "button": buttons }).to_string());
        }
        if options.failover {
            field("fsubject", subject);
            field("fmessage", &message.text);
        }
    }
    form.finish()
}

fn button(button: &Button) -> serde_json::Value {
    let Button { name, kind, url, desktop_url, ios_url, android_url } = button;
    let mut json = json!({ "name": name, "linkType": code_of(*kind), "linkTypeName": name_of(*kind) });
    for (key, link) in
        [("linkMo", url), ("linkPc", desktop_url), ("linkIos", ios_url), ("linkAnd", android_url)]
    {
        if let Some(link) = link {
            json[key] = link.as_str().into();
        }
    }
    json
}

/// Kakao's two letters for a kind of button.
pub(super) const fn code_of(kind: ButtonKind) -> &'static str {
    match kind {
        ButtonKind::Wl => "WL",
        ButtonKind::Al => "AL",
        ButtonKind::Bk => "BK",
        ButtonKind::Md => "MD",
        ButtonKind::Ds => "DS",
        ButtonKind::Ac => "AC",
        ButtonKind::Bc => "BC",
        ButtonKind::Bt => "BT",
    }
}

/// Aligo's name for it.
const fn name_of(kind: ButtonKind) -> &'static str {
    match kind {
        ButtonKind::Wl => "웹링크",
        ButtonKind::Al => "앱링크",
        ButtonKind::Bk => "봇키워드",
        ButtonKind::Md => "메시지전달",
        ButtonKind::Ds => "배송조회",
        ButtonKind::Ac => "채널 추가",
        ButtonKind::Bc => "상담톡전환",
        ButtonKind::Bt => "봇전환",
    }
}
