//! The body of `sendMessage`.

use teloxide::payloads::{SendMessage, SendMessageSetters as _};
use teloxide::types::{
    ChatId, InlineKeyboardButton, InlineKeyboardMarkup, ParseMode, Recipient, ReplyMarkup,
};
use url::Url;

use crate::channels::Message;

/// Where a message goes, and what the chat is limited by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Chat {
    /// A person, a group (negative) or a channel (negative).
    Id(i64),
    /// A public channel or group, with its `@`.
    Name(String),
}

impl Chat {
    /// Reads a contact's address.
    pub(super) fn parse(address: &str) -> Option<Self> {
        if let Ok(id) = address.parse() {
            return Some(Chat::Id(id));
        }
        address.strip_prefix('@').filter(|name| !name.is_empty()).map(|_| Chat::Name(address.to_owned()))
    }

    /// Whether the chat may be a group, whose limit is lower than a person's.
    pub(super) const fn is_group(&self) -> bool {
        match self {
            Chat::Id(id) => *id < 0,
            Chat::Name(_) => true,
        }
    }
}

/// The body as JSON: the text, which is HTML that the template made safe, and a row for each button that is a link.
/// `None` never happens with texts that came from JSON.
pub(super) fn body(message: &Message<'_>, chat: &Chat) -> Option<Vec<u8>> {
    let chat = match chat {
        Chat::Id(id) => Recipient::Id(ChatId(*id)),
        Chat::Name(name) => Recipient::ChannelUsername(name.clone()),
    };
    let mut payload = SendMessage::new(chat, &message.rendered.text).parse_mode(ParseMode::Html);
    let rows: Vec<[InlineKeyboardButton; 1]> = message
        .rendered
        .buttons
        .iter()
        .filter_map(|button| {
            let url = Url::parse(button.url.as_deref()?).ok()?;
            Some([InlineKeyboardButton::url(button.name.clone(), url)])
        })
        .collect();
    if !rows.is_empty() {
        payload = payload.reply_markup(ReplyMarkup::InlineKeyboard(InlineKeyboardMarkup::new(rows)));
    }
    serde_json::to_vec(&payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_are_ids_or_public_names() {
        assert_eq!(Chat::parse("42"), Some(Chat::Id(42)));
        assert_eq!(Chat::parse("-100123"), Some(Chat::Id(-100_123)));
        assert_eq!(Chat::parse("@news"), Some(Chat::Name("@news".to_owned())));
        for bad in ["", "news", "@", "99999999999999999999"] {
            assert_eq!(Chat::parse(bad), None, "{bad:?}");
        }
        assert!(Chat::Id(-1).is_group() && !Chat::Id(1).is_group());
    }
}
