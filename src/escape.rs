//! Escapes payload bytes for terminals and for JSON.
//!
//! Input: any bytes. Output: text without a control byte that a terminal would obey, or a JSON value. Nothing can fail.
//!
//! Most payloads are plain ASCII, so both functions check 32 bytes at once and copy them. Only the bytes after the
//! first other byte are checked one by one.

use std::io::Write;

const STEP: usize = 32;

/// The number of bytes at the start that are printable ASCII and not in `special`, rounded down to a multiple of the
/// step except at the end.
fn plain_prefix(bytes: &[u8], special: [u8; 2]) -> usize {
    // No early exit within a step, so that the compiler can compare all its bytes at once.
    let plain = |step: &[u8]| {
        step.iter()
            .fold(true, |all, &byte| all & ((0x20..0x7f).contains(&byte) & (byte != special[0]) & (byte != special[1])))
    };
    bytes.chunks(STEP).take_while(|step| plain(step)).map(<[u8]>::len).sum()
}

/// Appends `bytes` with everything that a terminal would obey made visible: control characters and bytes that are not
/// UTF-8 become `\x1b` and the like. Tabs stay; a line feed becomes `line_feed`.
pub(crate) fn put_visible(out: &mut Vec<u8>, bytes: &[u8], line_feed: &[u8]) {
    // Apart from control bytes, no byte is special to a terminal. 0 is not printable anyway.
    let plain = plain_prefix(bytes, [0, 0]);
    out.extend_from_slice(&bytes[..plain]);
    for chunk in bytes[plain..].utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => out.extend_from_slice(line_feed),
                '\t' => out.push(b'\t'),
                c if c.is_control() => c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| put_hex(out, byte)),
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        chunk.invalid().iter().for_each(|&byte| put_hex(out, byte));
    }
}

fn put_hex(out: &mut Vec<u8>, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("a vector takes all that is written");
}

/// Appends `bytes` as a JSON value: a string, or an array of numbers where they are not UTF-8.
pub(crate) fn put_json(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = plain_prefix(bytes, [b'"', b'\\']);
    if plain == bytes.len() {
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
    } else {
        match std::str::from_utf8(bytes) {
            Ok(text) => put_json_text(out, text, plain),
            Err(_) => put_json_numbers(out, bytes),
        }
    }
}

fn put_json_text(out: &mut Vec<u8>, text: &str, plain: usize) {
    out.push(b'"');
    out.extend_from_slice(&text.as_bytes()[..plain]);
    for c in text[plain..].chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            // Also DEL and C1, which JSON allows: a terminal obeys them.
            c if c.is_control() => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a vector takes all that is written");
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

/// `text` in one line, as [`put_visible`] shows it.
pub(crate) fn visible(text: &str) -> String {
    let mut out = Vec::new();
    put_visible(&mut out, text.as_bytes(), b" ");
    String::from_utf8_lossy(&out).replace('\t', " ")
}

/// A JSON document as text for a terminal. serde_json leaves DEL and C1 in strings, which a terminal obeys.
pub(crate) fn json_line(document: &serde_json::Value) -> String {
    let mut line = String::new();
    for c in document.to_string().chars() {
        if c.is_control() { line.push_str(&format!("\\u{:04x}", u32::from(c))) } else { line.push(c) }
    }
    line.push('\n');
    line
}

fn put_json_numbers(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'[');
    for (index, &byte) in bytes.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_decimal(out, u64::from(byte));
    }
    out.push(b']');
}

/// Appends `number` in decimal digits. It is faster than the formatting machinery, and every event's line has one.
pub(crate) fn put_decimal(out: &mut Vec<u8>, number: u64) {
    put_digits::<10>(out, number);
}

/// Appends `number` in hexadecimal digits, without leading zeros.
pub(crate) fn put_hexadecimal(out: &mut Vec<u8>, number: u64) {
    put_digits::<16>(out, number);
}

fn put_digits<const BASE: u64>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(number % BASE) as usize];
        number /= BASE;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        put_visible(&mut out, bytes, b"\n");
        String::from_utf8(out).expect("what is shown is UTF-8")
    }

    fn json(bytes: &[u8]) -> serde_json::Value {
        let mut out = Vec::new();
        put_json(&mut out, bytes);
        serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
    }

    #[test]
    fn no_control_byte_reaches_a_terminal() {
        assert_eq!(
            shown(b"plain text, longer than one step of thirty-two bytes"),
            "plain text, longer than one step of thirty-two bytes"
        );
        assert_eq!(shown(b"\x1b[31mred\x07\r\x7f"), "\\x1b[31mred\\x07\\x0d\\x7f");
        assert_eq!(shown("\u{9b}31m".as_bytes()), "\\xc2\\x9b31m");
        assert_eq!(shown(b"\x9b31m \xff\xc3"), "\\x9b31m \\xff\\xc3");
        assert_eq!(shown("a\tb\nc, ü, 日本".as_bytes()), "a\tb\nc, ü, 日本");
        for byte in 0..=u8::MAX {
            for prefix in [0, 40] {
                let text = shown(&[vec![b'a'; prefix], vec![byte]].concat());
                assert!(text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'), "{byte}");
            }
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_become_an_array_of_numbers() {
        assert_eq!(json(b"\xff\x00a"), serde_json::json!([255, 0, 97]));
        assert_eq!(json(b"\xc3"), serde_json::json!([195]));
        assert_eq!(json(b""), serde_json::json!(""));
    }

    #[test]
    fn json_shows_no_control_byte_either() {
        let mut out = Vec::new();
        put_json(&mut out, "\u{9b}\u{7f}\u{1b}\u{0}".as_bytes());
        assert_eq!(out, br#""\u009b\u007f\u001b\u0000""#);
    }

    #[test]
    fn a_document_keeps_its_meaning_and_shows_no_control_byte() {
        let document = serde_json::json!({ "a\u{9b}": ["\u{7f}\u{1b}\n", 1] });
        let line = json_line(&document);
        assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), document);
    }

    #[test]
    fn digits_are_those_of_the_standard_library() {
        for number in [0, 1, 9, 10, 99, 100, 12_345_678_901, u64::MAX] {
            let mut out = Vec::new();
            put_decimal(&mut out, number);
            put_hexadecimal(&mut out, number);
            assert_eq!(out, format!("{number}{number:x}").as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_from_json(text in ".{0,80}") {
            prop_assert_eq!(json(text.as_bytes()), serde_json::Value::String(text));
        }

        #[test]
        fn any_bytes_come_back_from_json(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let back = match json(&bytes) {
                serde_json::Value::String(text) => text.into_bytes(),
                numbers => serde_json::from_value(numbers).unwrap(),
            };
            prop_assert_eq!(back, bytes);
        }
    }
}
