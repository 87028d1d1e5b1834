//! Takes the hot messages apart without building a tree: objects, at most one inside another, of strings, numbers and
//! literals. Pure. Whatever else comes is not wrong, only slow: the caller asks a whole parser.

/// A value as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The inside of a string without escapes.
    Text(&'a [u8]),
    /// A number or a literal.
    Bare(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The string's inside.
    pub fn text(self) -> Option<&'a [u8]> {
        match self {
            Value::Text(text) => Some(text),
            Value::Bare(_) => None,
        }
    }
}

/// Calls `found` with (the outer key or nothing, key, value) for each member, in order. `None`: another shape.
pub fn each<'a>(
    text: &'a [u8],
    mut found: impl FnMut(&'a [u8], &'a [u8], Value<'a>),
) -> Option<()> {
    let mut rest = Rest(text);
    rest.space();
    object(&mut rest, b"", true, &mut found)?;
    rest.space();
    rest.0.is_empty().then_some(())
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn space(&mut self) {
        while let [b' ' | b'\n' | b'\r' | b'\t', rest @ ..] = self.0 {
            self.0 = rest;
        }
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        self.space();
        match self.0 {
            [first, rest @ ..] if *first == byte => {
                self.0 = rest;
                Some(())
            }
            _ => None,
        }
    }

    /// Behind the opening quote.
    fn string(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr2(b'"', b'\\', self.0)?;
        if self.0[end] == b'\\' {
            return None;
        }
        let (inside, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Some(inside)
    }

    fn bare(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| {
            !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'))
        })?;
        let (inside, rest) = self.0.split_at(end);
        self.0 = rest;
        (!inside.is_empty()).then_some(inside)
    }
}

fn object<'a>(
    rest: &mut Rest<'a>,
    outer: &'a [u8],
    may_nest: bool,
    found: &mut impl FnMut(&'a [u8], &'a [u8], Value<'a>),
) -> Option<()> {
    rest.eat(b'{')?;
    if rest.eat(b'}').is_some() {
        return Some(());
    }
    loop {
        rest.eat(b'"')?;
        let key = rest.string()?;
        rest.eat(b':')?;
        rest.space();
        match rest.0.first()? {
            b'"' => {
                rest.0 = &rest.0[1..];
                let text = rest.string()?;
                found(outer, key, Value::Text(text));
            }
            b'{' if may_nest => object(rest, key, false, found)?,
            b'{' | b'[' => return None,
            _ => {
                let bare = rest.bare()?;
                found(outer, key, Value::Bare(bare));
            }
        }
        if rest.eat(b',').is_none() {
            return rest.eat(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(text: &str) -> Option<Vec<(String, String, String)>> {
        let mut members = Vec::new();
        let string = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        each(text.as_bytes(), |outer, key, value| {
            let value = match value {
                Value::Text(text) => format!("\"{}\"", string(text)),
                Value::Bare(text) => string(text),
            };
            members.push((string(outer), string(key), value));
        })?;
        Some(members)
    }

    #[test]
    fn members_come_in_order_with_their_outer_key() {
        let member = |a: &str, b: &str, c: &str| (a.to_string(), b.to_string(), c.to_string());
        assert_eq!(
            all("{\"a\":\"x\", \"m\" : {\"p\":\"QQ==\",\"n\":-1.5e3},\"t\":true}"),
            Some(vec![
                member("", "a", "\"x\""),
                member("m", "p", "\"QQ==\""),
                member("m", "n", "-1.5e3"),
                member("", "t", "true"),
            ])
        );
        assert_eq!(all("{}"), Some(vec![]));
        assert_eq!(all(" { \"a\" : { } } "), Some(vec![]));
    }

    #[test]
    fn other_shapes_are_left_to_the_whole_parser() {
        for text in [
            "",
            "[]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1",
            "{\"a\":[1]}",
            "{\"a\":\"\\n\"}",
            "{\"a\":{\"b\":{}}}",
            "{\"a\":1}x",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":\"x}",
        ] {
            assert_eq!(all(text), None, "{text}");
        }
    }

    proptest! {
        /// Whatever it takes, a whole parser takes as well: texts of JSON's own punctuation, which hold no bare words
        /// that nobody judges here.
        #[test]
        fn it_accepts_nothing_that_a_whole_parser_refuses(text in "[{}\",: ]{0,24}") {
            let accepted = all(&text).is_some();
            prop_assert!(!accepted || serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }

        #[test]
        fn it_finds_what_a_whole_parser_finds(
            outer in proptest::collection::btree_map("[a-z]{1,6}", "[a-zA-Z0-9+/=]{0,30}", 0..5),
            inner in proptest::collection::btree_map("[a-z]{1,6}", any::<u32>(), 0..4),
        ) {
            let mut value = serde_json::json!(outer);
            value["Nested"] = serde_json::json!(inner);
            let mut found: Vec<_> = all(&value.to_string()).expect("the shape that it knows");
            found.sort();
            let mut want: Vec<_> = outer
                .iter()
                .map(|(key, text)| (String::new(), key.clone(), format!("\"{text}\"")))
                .chain(inner.iter().map(|(key, n)| ("Nested".into(), key.clone(), n.to_string())))
                .collect();
            want.sort();
            prop_assert_eq!(found, want);
        }
    }
}
