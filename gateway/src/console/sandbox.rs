//! The sandbox's outbox: messages as they would have gone out, with the addresses they would have gone to.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use peal_common::attachment::AttachmentSummary;
use peal_common::channel::Channel;
use peal_common::envelope::{Envelope as _, SandboxMessage};
use peal_nats::follow::StateError;
use peal_nats::topology::SANDBOX;

use super::Console;
use super::access::{Viewer, sandbox_policy};
use super::page::{Failure, Frame, Moment, html};
use crate::app::App;

/// How many messages the page shows.
const SHOWN: usize = 50;
/// How many messages are looked at to find those of one app: all that the stream keeps.
const READS: usize = 1_000;
/// What stands before a text that is shown in a frame. A frame has a white ground, as mail programs have.
const FRAME_STYLE: &str = "<!doctype html><meta charset=\"utf-8\"><style>:root{color-scheme:light}body{margin:12px;\
    font:15px/1.5 system-ui,sans-serif;color:#1b1b1f;background:#fff;overflow-wrap:anywhere}</style>";

/// A link under a message.
#[derive(Debug)]
pub(super) struct Link {
    name: String,
    /// Where it leads, when that is a page.
    url: Option<String>,
}

/// A message as it is shown.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) at: Moment,
    app: String,
    notification: String,
    pub(super) recipient: String,
    pub(super) channel: &'static str,
    address: String,
    pub(super) headline: Option<String>,
    /// The first line for the overview, when there is no headline.
    first_line: String,
    pub(super) text: String,
    /// A document for a frame: an e-mail's HTML part, or a text that is HTML itself.
    document: Option<String>,
    links: Vec<Link>,
    template_code: Option<String>,
    /// What would have been attached: name, type and size of each file.
    files: Vec<String>,
}

impl Message {
    fn new(message: SandboxMessage, now: Timestamp) -> Self {
        let rendered = message.rendered;
        // Telegram's text is HTML with line breaks as they stand in it.
        let first_line = match message.channel {
            Channel::Telegram => first_line(&without_tags(&rendered.text)),
            _ => first_line(&rendered.text),
        };
        let (text, document) = match message.channel {
            Channel::Telegram => {
                let document =
                    format!("{FRAME_STYLE}<style>body{{white-space:pre-wrap}}</style>{}", rendered.text);
                (String::new(), Some(document))
            }
            _ => (rendered.text, rendered.html.map(|html| format!("{FRAME_STYLE}{html}"))),
        };
        let buttons = rendered.buttons.into_iter().map(|button| Link::new(button.name, button.url));
        let opens = rendered.url.map(|url| Link::new(url.clone(), Some(url)));
        Message {
            at: Moment::new(message.at, now),
            app: message.app.to_string(),
            notification: message.notification.to_string(),
            recipient: message.recipient.to_string(),
            channel: message.channel.as_str(),
            address: message.address,
            headline: rendered.subject.or(rendered.title),
            first_line,
            text,
            document,
            links: buttons.chain(opens).collect(),
            template_code: rendered.template_code,
            files: message.attachments.iter().map(file).collect(),
        }
    }

    /// What the overview shows of it.
    pub(super) fn summary(&self) -> &str {
        self.headline.as_deref().unwrap_or(&self.first_line)
    }
}

fn file(attachment: &AttachmentSummary) -> String {
    let AttachmentSummary { filename, content_type, size } = attachment;
    format!("{filename} ({content_type}, {size} bytes)")
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
}

/// The words of a text in Telegram's HTML, for a line that is shown as plain text.
fn without_tags(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut within = false;
    for character in html.chars() {
        match character {
            '<' => within = true,
            '>' if within => within = false,
            _ if !within => text.push(character),
            _ => {}
        }
    }
    // Ampersands last: what they make must not be read again.
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

impl Link {
    fn new(name: String, url: Option<String>) -> Self {
        // Anything else, such as `javascript:`, would run here.
        let url = url.filter(|url| url.starts_with("https://") || url.starts_with("http://"));
        Link { name, url }
    }
}

/// The latest messages that a viewer may see, the latest first.
pub(super) async fn latest(app: &App, viewer: &Viewer, limit: usize) -> Result<Vec<Message>, StateError> {
    let now = app.clock.now();
    let wanted = |stored: &peal_nats::follow::Stored| {
        let message = SandboxMessage::decode(&stored.payload).ok()?;
        viewer.sees(&message.app).then(|| Message::new(message, now))
    };
    let filter = app.subjects.sandbox_all();
    let found = app.connection.latest_of(SANDBOX, &filter, None, limit, READS, wanted).await?;
    Ok(found.found)
}

#[derive(Template)]
#[template(path = "console/sandbox.html")]
struct Outbox {
    frame: Frame,
    /// `None` when there is no sandbox, or nobody says what it has.
    messages: Option<Vec<Message>>,
}

/// The outbox.
pub(super) async fn page(State(console): State<Console>, viewer: Viewer) -> Result<Response, Failure> {
    let messages = match latest(&console.app, &viewer, SHOWN).await {
        Ok(messages) => Some(messages),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "the sandbox cannot be read");
            None
        }
    };
    let page = html(&Outbox { frame: Frame::new(&console.app, &viewer, "sandbox"), messages })?;
    Ok(([sandbox_policy()], page).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_text_has_a_plain_line() {
        assert_eq!(first_line(&without_tags("\n<b>1 &lt; 2</b> &amp;amp;\nmore")), "1 < 2 &amp;");
        assert_eq!(first_line(""), "");
    }

    #[test]
    fn only_pages_are_linked() {
        for (url, linked) in [
            ("https://shop.example/1", true),
            ("http://shop.example", true),
            ("javascript:alert(1)", false),
            (" https://shop.example", false),
            ("data:text/html,x", false),
        ] {
            assert_eq!(Link::new("Open".to_owned(), Some(url.to_owned())).url.is_some(), linked, "{url}");
        }
    }
}
