//! How a value enters a text: the one place that decides what a channel may see of it.

use std::borrow::Cow;

/// What kind of text a value is put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// HTML, in element content or in a quoted attribute: e-mail's HTML part and Telegram's text.
    Html,
    /// A single line that may become a header: subjects and titles.
    Line,
    /// Plain text of several lines.
    Plain,
}

impl Context {
    /// `value` made safe for this context.
    pub(super) fn escape(self, value: &str) -> Cow<'_, str> {
        match self {
            Context::Html => html(value),
            Context::Line => line(value),
            Context::Plain => plain(value),
        }
    }
}

/// Control characters that no channel shows and some refuse: all but tab and line ends.
fn is_stray_control(character: char) -> bool {
    character.is_control() && !matches!(character, '\n' | '\r' | '\t')
}

/// Replaces the five characters that mean something in HTML. Telegram knows the named entities used here and every
/// numeric one (Bot API, "HTML style").
pub(super) fn html(value: &str) -> Cow<'_, str> {
    let special = |c: char| matches!(c, '&' | '<' | '>' | '"' | '\'') || is_stray_control(c);
    if !value.contains(special) {
        return Cow::Borrowed(value);
    }
    let mut escaped = String::with_capacity(value.len() + value.len() / 8 + 8);
    for character in value.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other if is_stray_control(other) => {}
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Puts a space in place of everything that could end a line or a header.
pub(super) fn line(value: &str) -> Cow<'_, str> {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if value.contains(breaks) { Cow::Owned(value.replace(breaks, " ")) } else { Cow::Borrowed(value) }
}

/// Drops stray control characters.
pub(super) fn plain(value: &str) -> Cow<'_, str> {
    if value.contains(is_stray_control) {
        Cow::Owned(value.replace(is_stray_control, ""))
    } else {
        Cow::Borrowed(value)
    }
}

/// The longest start of `text` that has at most `max` bytes and ends between characters.
pub(super) fn prefix(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Whether `url` is a link that a message may carry: absolute, `http` or `https`, with a host, of a bearable length
/// and without white space or control characters, which the URL parser would drop silently.
pub(super) fn is_web_url(url: &str) -> bool {
    url.len() <= super::MAX_URL_BYTES
        && !url.contains(|c: char| c.is_whitespace() || c.is_control())
        && url::Url::parse(url)
            .is_ok_and(|parsed| matches!(parsed.scheme(), "http" | "https") && parsed.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line() {
        assert_eq!(line("a\r\nBcc: x\u{85}\u{2028}\0b"), "a  Bcc: x   b");
        assert_eq!(line("방송 ok"), "방송 ok");
    }

    #[test]
    fn plain_text_keeps_line_ends_and_drops_other_controls() {
        assert_eq!(plain("a\nb\tc\0\u{1b}[31m"), "a\nb\tc[31m");
    }

    #[test]
    fn links_are_web_links() {
        for good in ["https://example.com/a?b=c#d", "http://127.0.0.1:8080/x", "https://예시.kr/주문"] {
            assert!(is_web_url(good), "{good}");
        }
        for bad in [
            "",
            "/x",
            "example.com",
            "javascript:alert(1)",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "ftp://example.com",
            "https://",
            "https://exa mple.com",
            " https://example.com",
            "https://e.com/\r\nX: y",
        ] {
            assert!(!is_web_url(bad), "{bad}");
        }
    }
}
