//! The placeholders `#{name}` of Alimtalk.
//!
//! An Alimtalk text must equal the text registered with Kakao in everything but its placeholders, so it has no other
//! syntax: no conditions, no loops, no filters.

/// A piece of an Alimtalk text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands.
    Text(String),
    /// The variable whose value stands here.
    Placeholder(String),
}

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct PlaceholderError {
    /// The line, from 1.
    pub line: usize,
    /// A sentence that says what to write.
    pub reason: &'static str,
}

/// Splits a text at its placeholders.
///
/// # Errors
/// A `#{` that nothing closes on its line, and the tags of the other channels (`{{`, `{%`), which Alimtalk would
/// show to the recipient.
pub fn parse(source: &str) -> Result<Vec<Part>, PlaceholderError> {
    let line_at = |offset: usize| source[..offset].matches('\n').count() + 1;
    for tag in ["{{", "{%"] {
        if let Some(at) = source.find(tag) {
            return Err(PlaceholderError { line: line_at(at), reason: "write #{name} for a variable" });
        }
    }
    let mut parts = Vec::new();
    let mut rest = source;
    while let Some(start) = rest.find("#{") {
        let inside = &rest[start + 2..];
        let Some(end) = inside.find(['}', '\n']).filter(|end| inside.as_bytes()[*end] == b'}') else {
            let line = line_at(source.len() - rest.len() + start);
            return Err(PlaceholderError { line, reason: "close #{ with }" });
        };
        if start > 0 {
            parts.push(Part::Text(rest[..start].to_owned()));
        }
        parts.push(Part::Placeholder(inside[..end].trim().to_owned()));
        rest = &inside[end + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_found_between_text() {
        let parts = parse("주문 #{order}\n#{ name }님").unwrap();
        assert_eq!(
            parts,
            [
                Part::Text("주문 ".into()),
                Part::Placeholder("order".into()),
                Part::Text("\n".into()),
                Part::Placeholder("name".into()),
                Part::Text("님".into()),
            ]
        );
        assert_eq!(parse("100# {x}").unwrap(), [Part::Text("100# {x}".into())]);
    }

    #[test]
    fn broken_and_foreign_tags_are_refused_with_their_line() {
        assert_eq!(parse("a\n#{order").unwrap_err().line, 2);
        assert_eq!(parse("#{a}\n\n#{order\n}").unwrap_err().line, 3);
        assert_eq!(parse("a\n\n{{ order }}").unwrap_err().line, 3);
    }
}
