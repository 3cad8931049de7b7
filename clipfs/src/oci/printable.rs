//! Foreign text that is to stand in a message.

/// Whether a character is no letter but an order to the terminal: controls, and what turns or breaks lines unseen.
#[must_use]
pub fn is_order(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// At most `most` characters of foreign text, with `instead` in place of orders to the terminal.
#[must_use]
pub fn printable(text: &str, instead: char, most: usize) -> String {
    text.chars().map(|c| if is_order(c) { instead } else { c }).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_orders_to_the_terminal() {
        for order in ['\u{1b}', '\n', '\u{85}', '\u{200f}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{2069}'] {
            assert_eq!(printable(&format!("a{order}b"), '?', 9), "a?b", "{order:?}");
        }
        assert_eq!(printable("größe 日本", '?', 5), "größe");
    }
}
