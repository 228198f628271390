//! Bytes as the printable characters of byte-level BPE, and back.
//!
//! The map is GPT-2's (`bytes_to_unicode` in its `encoder.py`): printable Latin-1 bytes stand for
//! themselves, the others take the characters from U+0100 on, in order.

use std::sync::LazyLock;

/// One past the last character that stands for a byte.
const END: usize = 0x144;

static TABLES: LazyLock<(Vec<char>, Vec<Option<u8>>)> = LazyLock::new(|| {
    let mut chars = Vec::with_capacity(256);
    let mut bytes = vec![None; END];
    let mut next = 0x100_u32;
    for byte in 0..=255_u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        // Every code is below U+0144, far from the surrogates.
        let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
        chars.push(character);
        bytes[code as usize] = Some(byte);
    }
    (chars, bytes)
});

/// The character that stands for a byte.
pub(super) fn char_of_byte(byte: u8) -> char {
    TABLES.0[usize::from(byte)]
}

/// The byte that a character stands for.
pub(super) fn byte_of_char(character: char) -> Option<u8> {
    TABLES.1.get(character as usize).copied().flatten()
}

/// The bytes that a byte-level token stands for; `None` if a character stands for no byte.
pub(super) fn bytes_of_token(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of_char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_gpt2s() {
        // From GPT-2's vocabulary: space, newline, NUL, and the soft hyphen, the last one mapped.
        assert_eq!(char_of_byte(b' '), 'Ġ');
        assert_eq!(char_of_byte(b'\n'), 'Ċ');
        assert_eq!(char_of_byte(0), 'Ā');
        assert_eq!(char_of_byte(0xAD), '\u{143}');
        assert_eq!(char_of_byte(b'A'), 'A');
        for byte in 0..=255 {
            assert_eq!(byte_of_char(char_of_byte(byte)), Some(byte));
        }
        assert_eq!(byte_of_char(' '), None);
        assert_eq!(byte_of_char('水'), None);
    }
}
