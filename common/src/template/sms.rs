//! How many parts a text message takes (3GPP TS 23.038 and TS 23.040).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Septets in a message of one part (TS 23.040: 140 octets).
pub const GSM7_SINGLE: usize = 160;
/// Septets in each part of a longer message: a 6-octet concatenation header takes 7 of them.
pub const GSM7_PART: usize = 153;
/// UTF-16 code units in a message of one part.
pub const UCS2_SINGLE: usize = 70;
/// UTF-16 code units in each part of a longer message.
pub const UCS2_PART: usize = 67;

/// The basic table of TS 23.038 section 6.2.1, without the escape.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
                     ¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// The extension table of TS 23.038 section 6.2.1.1; each takes an escape and a septet.
const EXTENSION: &str = "\u{c}^{}\\[~]|€";

/// The alphabet in which a text travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The GSM 7-bit default alphabet.
    Gsm7,
    /// UTF-16, for a text with any character outside the GSM alphabet.
    Ucs2,
}

/// The size of a text message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Segments {
    /// The alphabet.
    pub encoding: Encoding,
    /// Its length in septets (GSM 7-bit) or UTF-16 code units.
    pub units: usize,
    /// The parts it is sent and billed as; an empty text takes one.
    pub segments: usize,
}

/// Septets that a character takes in the GSM alphabet, if it is in it.
fn septets(character: char) -> Option<usize> {
    if BASIC.contains(character) {
        Some(1)
    } else if EXTENSION.contains(character) {
        Some(2)
    } else {
        None
    }
}

/// The parts that `text` is sent as.
#[must_use]
pub fn segments(text: &str) -> Segments {
    let gsm7: Option<Vec<usize>> = text.chars().map(septets).collect();
    match gsm7 {
        Some(units) => pack(Encoding::Gsm7, &units, GSM7_SINGLE, GSM7_PART),
        None => {
            let units: Vec<usize> = text.chars().map(char::len_utf16).collect();
            pack(Encoding::Ucs2, &units, UCS2_SINGLE, UCS2_PART)
        }
    }
}

/// Fills parts one after another. A character of two units is never torn apart, so a part may end one short.
fn pack(encoding: Encoding, characters: &[usize], single: usize, part: usize) -> Segments {
    let units = characters.iter().sum();
    if units <= single {
        return Segments { encoding, units, segments: 1 };
    }
    let (mut segments, mut used) = (1, 0);
    for width in characters {
        if used + width > part {
            segments += 1;
            used = 0;
        }
        used += width;
    }
    Segments { encoding, units, segments }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_has_the_size_of_the_specification() {
        // 128 codes, one of which is the escape.
        assert_eq!(BASIC.chars().count(), 127);
        assert_eq!(EXTENSION.chars().count(), 10);
    }

    #[test]
    fn a_part_more_begins_where_the_specification_says() {
        let count = |text: &str| segments(text).segments;
        assert_eq!(count(""), 1);
        assert_eq!(count(&"a".repeat(160)), 1);
        assert_eq!(count(&"a".repeat(161)), 2);
        assert_eq!(count(&"a".repeat(306)), 2);
        assert_eq!(count(&"a".repeat(307)), 3);
        assert_eq!(count(&"가".repeat(70)), 1);
        assert_eq!(count(&"가".repeat(71)), 2);
        assert_eq!(count(&"가".repeat(134)), 2);
        assert_eq!(count(&"가".repeat(135)), 3);
    }

    #[test]
    fn the_extension_table_counts_twice() {
        assert_eq!(segments("€"), Segments { encoding: Encoding::Gsm7, units: 2, segments: 1 });
        assert_eq!(segments(&"€".repeat(80)).segments, 1);
        assert_eq!(segments(&"€".repeat(81)).segments, 2);
        // 152 + an extension character does not fit 153: the pair moves to the next part.
        let torn = format!("{}{}{}", "a".repeat(152), "€", "a".repeat(152));
        assert_eq!(segments(&torn), Segments { encoding: Encoding::Gsm7, units: 306, segments: 3 });
    }

    #[test]
    fn one_foreign_character_turns_the_whole_text() {
        assert_eq!(segments("hello ‘you’").encoding, Encoding::Ucs2);
        assert_eq!(segments("a`b").encoding, Encoding::Ucs2);
        assert_eq!(segments("😀"), Segments { encoding: Encoding::Ucs2, units: 2, segments: 1 });
        assert_eq!(segments(&"😀".repeat(35)).segments, 1);
        // 33 pairs fill 66 of the 67 units.
        assert_eq!(segments(&"😀".repeat(36)).segments, 2);
        assert_eq!(segments(&"😀".repeat(67)).segments, 3);
    }

    proptest! {
        #[test]
        fn ascii_letters_follow_the_formula(length in 0usize..2_000) {
            let expected = if length <= GSM7_SINGLE { 1 } else { length.div_ceil(GSM7_PART) };
            prop_assert_eq!(segments(&"x".repeat(length)).segments, expected);
        }

        #[test]
        fn more_text_never_takes_fewer_parts(text in "\\PC{0,300}", more in "[a-z€{]{0,50}") {
            let longer = format!("{text}{more}");
            prop_assert!(segments(&longer).segments >= segments(&text).segments);
        }
    }
}
