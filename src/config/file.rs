//! Values, layer over layer, and the reading of config.toml against the table of keys.
//!
//! Shell. Everything a file or an environment variable says becomes a `Value` under a key of `schema::KEYS`, or of
//! a table in one of `schema::LISTS`; nothing else gets through. What the values mean together is proven in `prove`.

use super::schema::{KEYS, Key, Kind, LISTS, List, find, find_list, nearest, nearest_of};
use super::url::redacted;
use super::{Problem, Severity};
use serde_json::Map;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value of the right kind and within its bounds.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `Text`, `Secret`, `Choice`, the word of `IntegerOr`.
    Text(String),
    /// `List`, `SecretList`.
    List(Vec<String>),
    /// `Integer`, the number of `IntegerOr`.
    Integer(i64),
    /// `Number`.
    Number(f64),
    /// `Bool`.
    Bool(bool),
    /// `Object`.
    Object(Map<String, serde_json::Value>),
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// A line of the file, from 1.
    File(usize),
    /// An environment variable.
    Env(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(line) => write!(f, "file, line {line}"),
            Source::Env(name) => write!(f, "environment, {name}"),
        }
    }
}

/// The value of every key that has one, with where it came from; later layers replace earlier ones.
#[derive(Clone)]
pub struct Values {
    keys: BTreeMap<&'static str, (Value, Source)>,
    /// The tables of each list that was written, each with the values of the list's own keys.
    lists: BTreeMap<&'static str, (Vec<Values>, Source)>,
    /// A list's table in which a problem was found: what else is wrong with it would mostly follow from that.
    pub is_broken: bool,
    /// The file is not TOML: what it seems to say may be a piece of something else, even of a secret.
    is_guess: bool,
}

impl Values {
    /// The defaults alone.
    pub fn defaults() -> Self {
        Self::of(KEYS)
    }

    fn of(keys: &[Key]) -> Self {
        let of_key = |key: &Key| {
            let value = parse_text(key.kind, key.default?).expect("a test parses every default");
            Some((key.path, (value, Source::Default)))
        };
        Self {
            keys: keys.iter().filter_map(of_key).collect(),
            lists: BTreeMap::new(),
            is_broken: false,
            is_guess: false,
        }
    }

    /// Replaces a value.
    pub fn set(&mut self, key: &Key, value: Value, source: Source) {
        self.keys.insert(key.path, (value, source));
    }

    /// Replaces a list's tables.
    pub fn set_list(&mut self, list: &List, tables: Vec<Values>, source: Source) {
        self.lists.insert(list.path, (tables, source));
    }

    /// A list's tables.
    pub fn tables(&self, path: &str) -> &[Values] {
        self.lists.get(path).map_or(&[], |(tables, _)| tables)
    }

    /// An object; empty when unset.
    pub fn object(&self, path: &str) -> Map<String, serde_json::Value> {
        match self.value(path) {
            Some(Value::Object(object)) => object.clone(),
            _ => Map::new(),
        }
    }

    /// A text; empty when unset.
    pub fn text(&self, path: &str) -> &str {
        match self.value(path) {
            Some(Value::Text(text)) => text,
            _ => "",
        }
    }

    /// A list; empty when unset.
    pub fn list(&self, path: &str) -> &[String] {
        match self.value(path) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// A whole number; 0 when unset. No bound of the schema allows one below zero.
    pub fn integer(&self, path: &str) -> u64 {
        match self.value(path) {
            Some(Value::Integer(n)) => u64::try_from(*n).unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether there is a value at all.
    pub fn is_set(&self, path: &str) -> bool {
        self.value(path).is_some()
    }

    /// A number, where there is one.
    pub fn number(&self, path: &str) -> Option<f64> {
        match self.value(path) {
            Some(Value::Number(n)) => Some(*n),
            _ => None,
        }
    }

    /// A switch; off when unset.
    pub fn bool(&self, path: &str) -> bool {
        matches!(self.value(path), Some(Value::Bool(true)))
    }

    /// Where the value came from. Of a path inside an object, where the object came from; of `list.n.key`, where
    /// that table's key came from.
    pub fn source(&self, path: &str) -> Source {
        if let Some((_, source)) = self.keys.get(path) {
            return source.clone();
        }
        for (list, (tables, source)) in &self.lists {
            let Some(rest) = path.strip_prefix(list) else {
                continue;
            };
            let (n, key) = rest
                .trim_start_matches('.')
                .split_once('.')
                .unwrap_or((rest, ""));
            let table = n.parse().ok().and_then(|n: usize| tables.get(n));
            return match table.map(|table| table.source(key)) {
                Some(source) if source != Source::Default => source,
                _ => source.clone(),
            };
        }
        path.rsplit_once('.')
            .map_or(Source::Default, |(outer, _)| self.source(outer))
    }

    fn value(&self, path: &str) -> Option<&Value> {
        self.keys.get(path).map(|(value, _)| value)
    }

    /// Key, value as it may be shown (a secret says only whether it is set), source; in schema order.
    pub fn shown(&self) -> Vec<(&'static str, String, Source)> {
        let show = |key: &Key| {
            let value = self.value(key.path);
            let shown = match value {
                None => "unset".into(),
                Some(Value::Text(s)) if key.kind.is_secret() => set_or_not(s.is_empty()).into(),
                Some(Value::List(l)) if key.kind.is_secret() => set_or_not(l.is_empty()).into(),
                Some(Value::Text(_) | Value::List(_))
                    if self.is_guess && matches!(self.source(key.path), Source::File(_)) =>
                {
                    "not shown: the file can't be read".into()
                }
                Some(Value::Text(s)) => format!("{:?}", showable(key, s)),
                Some(Value::List(l)) => {
                    let texts: Vec<_> = l.iter().map(|s| showable(key, s)).collect();
                    format!("{texts:?}")
                }
                Some(Value::Integer(n)) => n.to_string(),
                Some(Value::Number(n)) => n.to_string(),
                Some(Value::Bool(b)) => b.to_string(),
                // What stands inside may be anything, also a credential.
                Some(Value::Object(o)) => format!("{:?}", o.keys().collect::<Vec<_>>()),
            };
            (key.path, shown, self.source(key.path))
        };
        // A list's tables may hold secrets and are long: their number will do.
        let count = |list: &List| {
            let shown = match self.tables(list.path).len() {
                0 => "none".to_owned(),
                n => format!("{n} of them"),
            };
            (list.path, shown, self.source(list.path))
        };
        KEYS.iter()
            .map(show)
            .chain(LISTS.iter().map(count))
            .collect()
    }
}

/// A URL may carry credentials, wherever it stands and however wrong it is.
fn showable<'a>(key: &Key, text: &'a str) -> Cow<'a, str> {
    let is_url = text.contains("://") && !text.contains(char::is_whitespace);
    match is_url || key.path.ends_with("url") {
        true => Cow::Owned(redacted(text)),
        false => Cow::Borrowed(text),
    }
}

fn set_or_not(is_empty: bool) -> &'static str {
    if is_empty { "unset" } else { "set" }
}

/// Reads a value as the environment writes it. `Err` says what would be right, never the value.
pub fn parse_text(kind: Kind, text: &str) -> Result<Value, String> {
    let wrong = || kind.expected();
    match kind {
        Kind::Text | Kind::Secret => Ok(Value::Text(text.to_owned())),
        Kind::List | Kind::SecretList => Ok(Value::List(
            text.split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect(),
        )),
        Kind::Integer(..) => integer(kind, text.trim().parse().map_err(|_| wrong())?),
        Kind::Number(..) => number(kind, text.trim().parse().map_err(|_| wrong())?),
        Kind::Bool => match text.trim() {
            "true" | "1" | "yes" | "on" => Ok(Value::Bool(true)),
            "false" | "0" | "no" | "off" => Ok(Value::Bool(false)),
            _ => Err(wrong()),
        },
        Kind::Choice(words) if words.contains(&text.trim()) => {
            Ok(Value::Text(text.trim().to_owned()))
        }
        Kind::Choice(_) => Err(wrong()),
        Kind::IntegerOr(_, _, word) if text.trim() == word => Ok(Value::Text(word.to_owned())),
        Kind::IntegerOr(..) => integer(kind, text.trim().parse().map_err(|_| wrong())?),
        Kind::Object => serde_json::from_str(text)
            .map(Value::Object)
            .map_err(|_| wrong()),
    }
}

/// Reads a value of a JSON object, for lists in the environment.
fn parse_json(kind: Kind, value: &serde_json::Value) -> Result<Value, String> {
    use serde_json::Value as Json;
    let wrong = || kind.expected();
    match (kind, value) {
        (Kind::Object, Json::Object(object)) => Ok(Value::Object(object.clone())),
        (Kind::List | Kind::SecretList, Json::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()
            .map(Value::List),
        (Kind::Integer(..) | Kind::IntegerOr(..), Json::Number(n)) => {
            integer(kind, n.as_i64().ok_or_else(wrong)?)
        }
        (Kind::Number(..), Json::Number(n)) => number(kind, n.as_f64().ok_or_else(wrong)?),
        (Kind::Bool, Json::Bool(b)) => Ok(Value::Bool(*b)),
        (
            Kind::Text | Kind::Secret | Kind::Choice(_) | Kind::IntegerOr(..) | Kind::Object,
            Json::String(text),
        ) => parse_text(kind, text),
        _ => Err(wrong()),
    }
}

/// Reads a list's tables as the environment writes them. `Err` are sentences: what is wrong, and what would be right.
pub fn parse_list(
    list: &List,
    text: &str,
    source: &Source,
) -> Result<Vec<Values>, Vec<(String, String)>> {
    let path = list.path;
    let objects: Vec<Map<String, serde_json::Value>> =
        serde_json::from_str(text).map_err(|_| {
            vec![(
                format!("{path} has a value that does not fit"),
                "Set a JSON array of objects.".to_owned(),
            )]
        })?;
    let (mut tables, mut problems) = (Vec::new(), Vec::new());
    for (n, object) in objects.iter().enumerate() {
        let mut values = Values::of(list.keys);
        for (name, value) in object {
            match list.keys.iter().find(|key| key.path == name) {
                Some(key) => match parse_json(key.kind, value) {
                    Ok(value) => values.set(key, value, source.clone()),
                    Err(expected) => problems.push((
                        format!("{path}.{n}.{name} has a value that does not fit"),
                        format!("Set {expected}."),
                    )),
                },
                None => problems.push((
                    format!("unknown key {path}.{n}.{name}"),
                    format!(
                        "The nearest known key is {path}.{}.",
                        nearest_of(list, name)
                    ),
                )),
            }
        }
        tables.push(values);
    }
    if problems.is_empty() {
        Ok(tables)
    } else {
        Err(problems)
    }
}

fn integer(kind: Kind, n: i64) -> Result<Value, String> {
    match kind {
        Kind::Integer(min, max) | Kind::IntegerOr(min, max, _) if (min..=max).contains(&n) => {
            Ok(Value::Integer(n))
        }
        Kind::Number(..) => number(kind, n as f64),
        _ => Err(kind.expected()),
    }
}

fn number(kind: Kind, n: f64) -> Result<Value, String> {
    match kind {
        // A NaN is in no range.
        Kind::Number(min, max) if (min..=max).contains(&n) => Ok(Value::Number(n)),
        _ => Err(kind.expected()),
    }
}

fn parse_toml(kind: Kind, value: &DeValue<'_>) -> Result<Value, String> {
    let wrong = || kind.expected();
    match (kind, value) {
        (Kind::Text | Kind::Secret, DeValue::String(text)) => Ok(Value::Text(text.to_string())),
        (Kind::Choice(_) | Kind::Object, DeValue::String(text)) => parse_text(kind, text),
        (Kind::IntegerOr(_, _, word), DeValue::String(text)) if text == word => {
            Ok(Value::Text(word.to_owned()))
        }
        (Kind::Object, DeValue::Table(table)) => object(table).map(Value::Object).ok_or_else(wrong),
        (Kind::List | Kind::SecretList, DeValue::Array(items)) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned).ok_or_else(wrong))
            .collect::<Result<_, _>>()
            .map(Value::List),
        (Kind::Integer(..) | Kind::IntegerOr(..) | Kind::Number(..), DeValue::Integer(n)) => {
            let n = i64::from_str_radix(n.as_str(), n.radix()).map_err(|_| wrong())?;
            integer(kind, n)
        }
        (Kind::Number(..), DeValue::Float(n)) => {
            number(kind, n.as_str().parse().map_err(|_| wrong())?)
        }
        (Kind::Bool, DeValue::Boolean(b)) => Ok(Value::Bool(*b)),
        _ => Err(wrong()),
    }
}

/// A table as JSON; `None` when it holds a date or a number that JSON does not have.
fn object(table: &DeTable<'_>) -> Option<Map<String, serde_json::Value>> {
    table
        .iter()
        .map(|(name, value)| Some((name.get_ref().to_string(), json(value.get_ref())?)))
        .collect()
}

/// See `object`. The parser bounds how deep this goes.
fn json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    Some(match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok()?.into(),
        DeValue::Float(n) => serde_json::Number::from_f64(n.as_str().parse().ok()?)?.into(),
        DeValue::Boolean(b) => (*b).into(),
        DeValue::Array(items) => items
            .iter()
            .map(|item| json(item.get_ref()))
            .collect::<Option<Vec<_>>>()?
            .into(),
        DeValue::Table(table) => object(table)?.into(),
        DeValue::Datetime(_) => return None,
    })
}

/// Lays the file over `values`. `name` is how messages call it. Reports every problem it finds, each with its line.
pub fn apply(values: &mut Values, name: &str, text: &str, problems: &mut Vec<Problem>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let line_of = |at: usize| 1 + text[..at.min(text.len())].matches('\n').count();
    if !errors.is_empty() {
        for error in errors {
            // Only the message: the error's own display quotes the line, which may hold a secret.
            let line = line_of(error.span().map_or(0, |span| span.start));
            problems.push(Problem {
                severity: Severity::Error,
                place: format!("{name}, line {line}"),
                what: format!("this is not TOML: {}", error.message()),
                fix: "Correct the line; texts stand in quotes, lists in square brackets.".into(),
            });
        }
        // The rest is still good to judge the machine by, but what else is wrong may be a trace of the first error.
        let mut traces = Vec::new();
        values.is_guess = true;
        read(values, name, &line_of, root.get_ref(), &mut traces);
        // A text that runs on over lines is an open quote.
        for (path, default) in Values::defaults().keys {
            if matches!(values.keys.get(path), Some((Value::Text(text), Source::File(_))) if text.contains('\n'))
            {
                values.keys.insert(path, default);
            }
        }
        return;
    }
    read(values, name, &line_of, root.get_ref(), problems);
}

fn read(
    values: &mut Values,
    name: &str,
    line_of: &dyn Fn(usize) -> usize,
    root: &DeTable<'_>,
    problems: &mut Vec<Problem>,
) {
    let mut reader = Reader {
        values,
        name,
        line_of,
        problems,
    };
    reader.table("", root);
}

struct Reader<'a> {
    values: &'a mut Values,
    name: &'a str,
    line_of: &'a dyn Fn(usize) -> usize,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        // In the order of the file, so that its problems read from top to bottom.
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in entries {
            let line = (self.line_of)(name.span().start);
            let path = format!("{prefix}{}", name.get_ref());
            self.entry(&path, value, line);
        }
    }

    /// The tables of a list.
    fn list(&mut self, list: &List, items: &[Spanned<DeValue<'_>>], line: usize) {
        let mut tables = Vec::new();
        for item in items {
            let DeValue::Table(table) = item.get_ref() else {
                let path = list.path;
                self.problem(
                    line,
                    format!("{path} holds something that is not a table"),
                    format!("Write [[{path}]] above the keys of each."),
                );
                continue;
            };
            let mut values = Values::of(list.keys);
            let before = self.problems.len();
            let mut entries: Vec<_> = table.iter().collect();
            entries.sort_by_key(|(name, _)| name.span().start);
            for (name, value) in entries {
                let line = (self.line_of)(name.span().start);
                let (path, name) = (list.path, name.get_ref().as_ref());
                match list.keys.iter().find(|key| key.path == name) {
                    Some(key) => match parse_toml(key.kind, value.get_ref()) {
                        Ok(value) => values.set(key, value, Source::File(line)),
                        Err(expected) => self.problem(
                            line,
                            format!("{path}.{name} has a value that does not fit"),
                            format!("Write {expected}."),
                        ),
                    },
                    None => self.problem(
                        line,
                        format!("unknown key {path}.{name}"),
                        format!(
                            "The nearest known key is {path}.{}.",
                            nearest_of(list, name)
                        ),
                    ),
                }
            }
            values.is_broken = self.problems.len() > before;
            tables.push(values);
        }
        self.values.set_list(list, tables, Source::File(line));
    }

    fn entry(&mut self, path: &str, value: &Spanned<DeValue<'_>>, line: usize) {
        if let Some(list) = find_list(path) {
            match value.get_ref() {
                DeValue::Array(items) => self.list(list, items, line),
                _ => self.problem(
                    line,
                    format!("{path} is not a list of tables"),
                    format!("Write [[{path}]] above the keys of each."),
                ),
            }
            return;
        }
        let section = format!("{path}.");
        match (find(path), value.get_ref()) {
            (Some(key), value) => match parse_toml(key.kind, value) {
                Ok(value) => self.values.set(key, value, Source::File(line)),
                Err(expected) => self.problem(
                    line,
                    format!("{path} has a value that does not fit"),
                    format!("Write {expected}."),
                ),
            },
            (None, DeValue::Table(table))
                if KEYS.iter().any(|key| key.path.starts_with(&section)) =>
            {
                self.table(&section, table);
            }
            (None, _) => self.problem(
                line,
                format!("unknown key {path}"),
                format!("The nearest known key is {}.", nearest(path)),
            ),
        }
    }

    fn problem(&mut self, line: usize, what: String, fix: String) {
        self.problems.push(Problem {
            severity: Severity::Error,
            place: format!("{}, line {line}", self.name),
            what,
            fix,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Values, Vec<Problem>) {
        let (mut values, mut problems) = (Values::defaults(), Vec::new());
        apply(&mut values, "config.toml", text, &mut problems);
        (values, problems)
    }

    #[test]
    fn every_default_is_a_value_of_its_kind_and_every_path_is_there_once() {
        for key in KEYS {
            if let Some(default) = key.default {
                assert!(parse_text(key.kind, default).is_ok(), "{}", key.path);
            }
            assert_eq!(KEYS.iter().filter(|k| k.path == key.path).count(), 1);
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest_and_the_line() {
        let (_, problems) = read("[listen]\nprot = 3001\n\n[realtime]\nmodle = \"x\"\n");
        let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].contains("line 2") && texts[0].contains("listen.port"));
        assert!(texts[1].contains("line 5") && texts[1].contains("realtime.model"));
    }

    #[test]
    fn a_key_in_no_or_the_wrong_section_finds_its_own() {
        assert_eq!(nearest("port"), "listen.port");
        assert_eq!(nearest("listen.api_key"), "realtime.api_key");
        assert_eq!(
            nearest("agent.turndetection.treshold"),
            "agent.turn_detection.threshold"
        );
        let (_, problems) = read("[telemetry]\nlevel = \"info\"\n");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].what.contains("telemetry"));
    }

    #[test]
    fn wrong_kinds_and_bounds_are_all_reported_with_what_would_be_right() {
        let (values, problems) = read(
            "[listen]\nport = 70000\naddresses = \"127.0.0.1\"\n[agent]\nspeed = 9\n\
             [log]\nlevel = \"loud\"\n[dev]\ninsecure = \"yes\"\n[relay]\ndrain_secs = -1\n",
        );
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(problems[0].fix.contains("0 to 65535"));
        assert_eq!(values.integer("listen.port"), 3000, "the default stays");
    }

    #[test]
    fn numbers_may_be_written_with_other_bases_and_whole() {
        let (values, problems) =
            read("[listen]\nport = 0xBB8\n[realtime]\ntemperature = 0\n[agent]\nspeed = 1\n");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(values.integer("listen.port"), 3000);
        assert_eq!(values.number("realtime.temperature"), Some(0.0));
    }

    #[test]
    fn a_syntax_error_tells_the_line_and_not_its_text() {
        let (_, problems) = read("[realtime]\napi_key = \"sk-hidden\" oops\n");
        assert!(!problems.is_empty());
        let text = format!("{problems:?}");
        assert!(text.contains("line 2"), "{text}");
        assert!(!text.contains("hidden"), "{text}");
    }

    #[test]
    fn a_syntax_error_leaves_the_other_lines_to_judge_by() {
        let (values, problems) = read("[listen]\nport = 3001\n[relay]\ncalls_max = 7 x\n");
        assert!(!problems.is_empty());
        assert_eq!(values.integer("listen.port"), 3001);
    }

    #[test]
    fn an_open_quote_shows_no_secret_behind_it() {
        for quote in ["\"", "\"\"\"", "'", "'''"] {
            let text = format!(
                "[realtime]\nmodel = {quote}x\napi_key = \"sk-hidden\"\n[log]\nlevel = \"info\"\n"
            );
            let (values, problems) = read(&text);
            assert!(!problems.is_empty());
            assert!(!format!("{problems:?}{:?}", values.shown()).contains("hidden"));
            assert!(!values.text("realtime.model").contains("hidden"));
        }
    }

    #[test]
    fn a_wrong_secret_is_not_quoted() {
        let (_, problems) = read("[realtime]\napi_keys = [\"sk-hidden\", 5]\n");
        assert_eq!(problems.len(), 1);
        assert!(!format!("{problems:?}").contains("hidden"));
    }

    #[test]
    fn a_section_where_a_key_is_due_and_the_reverse() {
        let (_, problems) = read("listen = 3\n");
        assert_eq!(problems.len(), 1);
        let (_, problems) = read("[listen.port]\nx = 1\n");
        assert_eq!(problems.len(), 1);
    }
}
