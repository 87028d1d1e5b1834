//! Just enough of Rust's grammar to find the words and paths of a file: comments, literals and test modules are
//! taken out, `use` trees are spread, `super` and `self` are resolved.

/// What a file names.
pub struct Source {
    /// The module below the crate, e.g. `proto::ws::reader`; empty for `lib.rs` and `main.rs`.
    pub module: String,
    /// Every identifier and keyword.
    pub words: Vec<String>,
    /// Every path of two segments or more, and every bare root in a `use`; ours begin with `crate::`.
    pub paths: Vec<String>,
}

impl Source {
    /// Reads the file that lies at `file` (`src/…`).
    pub fn read(file: &str, text: &str) -> Self {
        let module = module_of(file);
        let tokens = without_tests(tokens(text));
        let words = tokens
            .iter()
            .filter(|token| is_word(token))
            .cloned()
            .collect();
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == "use" {
                at = tree(&tokens, at + 1, &[], &mut paths);
            } else if is_word(&tokens[at]) && tokens.get(at + 1).is_some_and(|t| t == "::") {
                at = tree(&tokens, at, &[], &mut paths);
            } else {
                at += 1;
            }
        }
        let paths = paths
            .into_iter()
            .map(|path| resolve(&module, &path).join("::"))
            .collect();
        Self {
            module,
            words,
            paths,
        }
    }
}

fn module_of(file: &str) -> String {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    let inner = inner.trim_end_matches("/mod");
    if inner == "lib" || inner == "main" {
        String::new()
    } else {
        inner.replace('/', "::")
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// `self::a` and `super::a` as seen from `module` (a file's own items are below it).
fn resolve(module: &str, path: &[String]) -> Vec<String> {
    let mut here: Vec<String> = std::iter::once("crate")
        .chain(module.split("::").filter(|part| !part.is_empty()))
        .map(str::to_owned)
        .collect();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("self") => rest = &path[1..],
        Some("super") => {
            while rest.first().is_some_and(|part| part == "super") {
                here.pop();
                rest = &rest[1..];
            }
        }
        _ => return path.to_vec(),
    }
    here.extend(rest.iter().cloned());
    here
}

/// Reads one path or `use` tree from `at` and returns the index behind it.
fn tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    // `use ::a::b` and `pub use`.
    while tokens.get(at).is_some_and(|token| token == "::") {
        at += 1;
    }
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{")
                if at > 0
                    && (tokens[at - 1] == "::"
                        || tokens[at - 1] == "use"
                        || tokens[at - 1] == "{"
                        || tokens[at - 1] == ",") =>
            {
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    if tokens[at] == "," {
                        at += 1;
                    } else {
                        let before = at;
                        at = tree(tokens, at, &path, paths);
                        if at == before {
                            at += 1;
                        }
                    }
                }
                return at + 1;
            }
            Some("*") => {
                paths.push(path);
                return at + 1;
            }
            // Turbofish: what stands in it is read as paths of its own, the path goes on behind it.
            Some("<") if tokens[at - 1] == "::" => {
                let mut depth = 0;
                while at < tokens.len() {
                    match tokens[at].as_str() {
                        "<" => depth += 1,
                        ">" => depth -= 1,
                        _ => {}
                    }
                    at += 1;
                    if depth == 0 {
                        break;
                    }
                }
                if tokens.get(at).is_some_and(|token| token == "::") {
                    at += 1;
                } else {
                    paths.push(path);
                    return at;
                }
            }
            Some(word) if is_word(word) => {
                // `use a::{self}` names `a`.
                if word != "self" || path.is_empty() {
                    path.push(word.to_owned());
                }
                at += 1;
                if tokens.get(at).is_some_and(|token| token == "::") {
                    at += 1;
                } else {
                    paths.push(path);
                    if tokens.get(at).is_some_and(|token| token == "as") {
                        at += 2;
                    }
                    return at;
                }
            }
            _ => {
                paths.push(path);
                return at;
            }
        }
    }
}

/// Cuts out every item behind `#[cfg(test)]`.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let here = &tokens[at..];
        if here.len() >= mark.len()
            && here
                .iter()
                .zip(mark)
                .all(|(token, expected)| token == expected)
        {
            at += mark.len();
            let mut depth = 0;
            while at < tokens.len() {
                match tokens[at].as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                let over = depth == 0 && matches!(tokens[at].as_str(), "}" | ";");
                at += 1;
                if over {
                    break;
                }
            }
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Words and punctuation; comments and literals are gone.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        if c == '/' && next == '/' {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if c == '/' && next == '*' {
            let mut depth = 0;
            while at < chars.len() {
                let pair = (chars[at], chars.get(at + 1).copied().unwrap_or(' '));
                match pair {
                    ('/', '*') => depth += 1,
                    ('*', '/') => depth -= 1,
                    _ => {
                        at += 1;
                        continue;
                    }
                }
                at += 2;
                if depth == 0 {
                    break;
                }
            }
        } else if c == '"' {
            at = after_string(&chars, at);
        } else if c == '\'' {
            at = after_quote(&chars, at);
        } else if c.is_alphabetic() || c == '_' {
            let start = at;
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            match (word.as_str(), chars.get(at)) {
                ("r" | "br", Some('"' | '#')) => match after_raw_string(&chars, at) {
                    Some(end) => at = end,
                    None => tokens.push(word), // a raw identifier
                },
                ("b" | "c", Some('"')) => at = after_string(&chars, at),
                ("b", Some('\'')) => at = after_quote(&chars, at),
                _ => tokens.push(word),
            }
        } else if c.is_ascii_digit() {
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
        } else if c == ':' && next == ':' {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            at += 1;
        }
    }
    tokens
}

fn after_string(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// Behind a character literal, or behind the quote of a lifetime.
fn after_quote(chars: &[char], at: usize) -> usize {
    if chars.get(at + 1) == Some(&'\\') {
        let mut end = at + 3;
        while end < chars.len() && chars[end] != '\'' {
            end += 1;
        }
        end + 1
    } else if chars.get(at + 2) == Some(&'\'') {
        at + 3
    } else {
        at + 1
    }
}

fn after_raw_string(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
    let mut end = at + hashes;
    if chars.get(end) != Some(&'"') {
        return None;
    }
    end += 1;
    while end < chars.len() {
        let closed = chars[end] == '"'
            && chars.len() >= end + 1 + hashes
            && chars[end + 1..end + 1 + hashes].iter().all(|c| *c == '#');
        if closed {
            return Some(end + 1 + hashes);
        }
        end += 1;
    }
    Some(end)
}
