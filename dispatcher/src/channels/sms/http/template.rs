//! Texts of the settings in which a message takes its places.

use crate::channels::ConfigError;

/// What a message brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Values<'a> {
    pub(super) to: &'a str,
    pub(super) text: &'a str,
    pub(super) from: &'a str,
    pub(super) id: &'a str,
    pub(super) reference: &'a str,
}

impl<'a> Values<'a> {
    /// The same everywhere, to try a template with.
    pub(super) const fn all(value: &'a str) -> Self {
        Values { to: value, text: value, from: value, id: value, reference: value }
    }

    const fn of(&self, place: Place) -> &'a str {
        match place {
            Place::To => self.to,
            Place::Text => self.text,
            Place::From => self.from,
            Place::Id => self.id,
            Place::Reference => self.reference,
        }
    }
}

/// A place for one of them: `{{ to }}` and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    To,
    Text,
    From,
    Id,
    Reference,
}

/// How values are written, so that nothing in them has a meaning where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// As the inside of a JSON string (RFC 8259 §7).
    Json,
    /// As part of a URL or of a form: all but the unreserved characters of RFC 3986 §2.3 as %XX.
    Percent,
    /// As they are.
    Plain,
}

impl Escape {
    fn write(self, value: &str, out: &mut String) {
        match self {
            Escape::Json => {
                let quoted = serde_json::Value::from(value).to_string();
                out.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
            }
            Escape::Percent => {
                for byte in value.bytes() {
                    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                        out.push(char::from(byte));
                    } else {
                        out.push_str(&format!("%{byte:02X}"));
                    }
                }
            }
            Escape::Plain => out.push_str(value),
        }
    }
}

#[derive(Clone, PartialEq)]
enum Piece {
    Fixed(String),
    Place(Place),
}

/// A text with places. It may contain secrets, so it is never shown.
#[derive(Clone, PartialEq)]
pub(super) struct Template(Vec<Piece>);

impl Template {
    /// Reads a text; `key` is where it stands in the settings.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when a place is unknown or has no end.
    pub(super) fn parse(key: &'static str, source: &str) -> Result<Self, ConfigError> {
        let unknown = || {
            let advice = "between {{ and }} write to, text, from, id or reference";
            ConfigError::invalid(key, advice)
        };
        let (mut pieces, mut rest) = (Vec::new(), source);
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, after) = behind.split_once("}}").ok_or_else(unknown)?;
            let place = match name.trim() {
                "to" => Place::To,
                "text" => Place::Text,
                "from" => Place::From,
                "id" => Place::Id,
                "reference" => Place::Reference,
                _ => return Err(unknown()),
            };
            pieces.extend([Piece::Fixed(before.to_owned()), Piece::Place(place)]);
            rest = after;
        }
        pieces.push(Piece::Fixed(rest.to_owned()));
        Ok(Template(pieces))
    }

    /// The text with a message's values.
    pub(super) fn render(&self, values: &Values<'_>, escape: Escape) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Fixed(text) => out.push_str(text),
                Piece::Place(place) => escape.write(values.of(*place), &mut out),
            }
        }
        out
    }

    /// Whether it has such a place.
    pub(super) fn has(&self, wanted: Place) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Place(place) if *place == wanted))
    }

    /// Whether it has such a place that no `mark` stands before.
    pub(super) fn has_before(&self, wanted: Place, mark: char) -> bool {
        let before = |piece: &&Piece| !matches!(piece, Piece::Fixed(text) if text.contains(mark));
        self.0.iter().take_while(before).any(|piece| matches!(piece, Piece::Place(place) if *place == wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(source: &str, text: &str, escape: Escape) -> String {
        let values = Values { to: "+82", text, from: "Shop", id: "ab", reference: "eu.shop.n.ab" };
        Template::parse("k", source).unwrap().render(&values, escape)
    }

    #[test]
    fn values_take_their_places() {
        let source = "{{to}} {{ text }}{{ from}}|{{id }}|{{ reference }} {x} }}";
        assert_eq!(rendered(source, "hi", Escape::Plain), "+82 hiShop|ab|eu.shop.n.ab {x} }}");
        assert_eq!(
            rendered("{{ text }}", "{{ to }}", Escape::Plain),
            "{{ to }}",
            "no template comes from a text"
        );
        assert_eq!(rendered("", "hi", Escape::Plain), "");
    }

    #[test]
    fn nothing_in_a_value_has_a_meaning() {
        let text = "\"a\"\\\n\u{1}&b=c/..?d#e% 가";
        let json = rendered(r#"{"t":"{{ text }}"}"#, text, Escape::Json);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["t"], text);
        let form = rendered("t={{ text }}&x=1", text, Escape::Percent);
        let pairs: Vec<_> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        assert_eq!(pairs, [("t".to_owned(), text.to_owned()), ("x".to_owned(), "1".to_owned())]);
        for quotes in ["\"", "\"\"", "a\"", "\\", ""] {
            let json = rendered(r#"["{{ text }}"]"#, quotes, Escape::Json);
            assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [quotes], "{json}");
        }
    }

    #[test]
    fn unknown_places_are_refused() {
        for bad in ["{{ number }}", "{{ to", "{{}}", "{{ to | upper }}", "{{ {{ to }} }}"] {
            let error = Template::parse("channels.sms.http.body", bad).err().unwrap().to_string();
            assert!(error.contains("channels.sms.http.body") && error.contains("reference"), "{error}");
        }
    }
}
