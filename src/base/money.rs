//! Money and prices, exact. Core.
//!
//! All money is whole billionths of a dollar (`Nano`). A price is dollars a million tokens, which is a thousand of these
//! units a token for each dollar: prices with up to three decimals are exact, so are all sums, and nothing is ever a
//! fraction in binary.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Billionths of a dollar.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nano(pub u64);

impl Nano {
    /// The sum; the largest there is where it would be larger.
    pub fn plus(self, other: Nano) -> Nano {
        Nano(self.0.saturating_add(other.0))
    }

    /// The difference, never below nothing.
    pub fn minus(self, other: Nano) -> Nano {
        Nano(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Nano {
    /// Dollars with nine decimals: exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:09}",
            self.0 / 1_000_000_000,
            self.0 % 1_000_000_000
        )
    }
}

/// Dollars a million tokens, to three decimals, as the vendor's page has them. Kept as billionths of a dollar a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Price(u64);

/// The highest price that is believed, dollars a million tokens.
pub const DOLLARS_MAX: u64 = 1_000_000;

impl Price {
    /// Reads a decimal number such as `32`, `0.4` or `0.275`: digits, at most three behind the point, at most
    /// [`DOLLARS_MAX`].
    pub fn parse(text: &str) -> Result<Price, PriceError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(fraction) {
            return Err(PriceError::NotDecimal);
        }
        let fraction = match fraction.trim_end_matches('0') {
            short if short.len() <= 3 => short,
            _ => return Err(PriceError::TooFine),
        };
        // At most nine digits, so that neither parse nor product can overflow.
        let whole: u64 = match whole.trim_start_matches('0') {
            "" => 0,
            digits if digits.len() <= 9 => digits.parse().map_err(|_| PriceError::NotDecimal)?,
            _ => return Err(PriceError::TooHigh),
        };
        let thousandths: u64 = format!("{fraction:0<3}")
            .parse()
            .map_err(|_| PriceError::NotDecimal)?;
        let nano = whole * 1_000 + thousandths;
        if nano > DOLLARS_MAX * 1_000 {
            return Err(PriceError::TooHigh);
        }
        Ok(Price(nano))
    }

    /// What so many tokens cost; the largest there is where it would be larger.
    pub fn of(self, tokens: u64) -> Nano {
        Nano(self.0.saturating_mul(tokens))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 / 1_000)?;
        match self.0 % 1_000 {
            0 => Ok(()),
            rest => write!(f, ".{}", format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

impl TryFrom<String> for Price {
    type Error = PriceError;
    fn try_from(text: String) -> Result<Self, PriceError> {
        Price::parse(&text)
    }
}

impl From<Price> for String {
    fn from(price: Price) -> String {
        price.to_string()
    }
}

/// Why a text is no price.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PriceError {
    /// Something beside digits and one point.
    NotDecimal,
    /// More than three decimals.
    TooFine,
    /// Above [`DOLLARS_MAX`].
    TooHigh,
}

impl fmt::Display for PriceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDecimal => {
                "is no decimal number; write dollars per million tokens, such as \"0.4\""
            }
            Self::TooFine => "has more than three decimals; prices are dollars per million tokens",
            Self::TooHigh => "is above a million dollars per million tokens",
        })
    }
}

impl std::error::Error for PriceError {}

/// What one model costs, dollars a million tokens. A price that is missing is nought: a text model has no audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// Text read.
    pub text_input: Price,
    /// Text read from the cache.
    pub text_cached: Price,
    /// Text generated.
    pub text_output: Price,
    /// Audio read.
    pub audio_input: Price,
    /// Audio read from the cache.
    pub audio_cached: Price,
    /// Audio generated.
    pub audio_output: Price,
}

/// The price table: what each model costs, by the beginning of its name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PriceTable(Vec<(String, Prices)>);

impl PriceTable {
    /// From rows of a model's name, or the beginning of one that ends in `*`, and its prices.
    pub fn new(rows: Vec<(String, Prices)>) -> Self {
        Self(rows)
    }

    /// A model's prices: the row of exactly that name, else the row with the longest beginning that fits.
    pub fn of(&self, model: &str) -> Option<&Prices> {
        let fits = |name: &str| match name.strip_suffix('*') {
            Some(start) => model.starts_with(start).then_some(start.len()),
            // An exact name beats any beginning.
            None => (name == model).then_some(usize::MAX),
        };
        let rows = self.0.iter();
        let best = rows.filter_map(|(name, prices)| Some((fits(name)?, prices)));
        best.max_by_key(|(length, _)| *length)
            .map(|(_, prices)| prices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(text: &str) -> Price {
        Price::parse(text).unwrap()
    }

    fn priced() -> Prices {
        Prices {
            text_input: price("4"),
            ..Prices::default()
        }
    }

    #[test]
    fn a_price_is_read_exactly_or_refused() {
        for (text, shown) in [
            ("32", "32"),
            ("0.4", "0.4"),
            ("0.275", "0.275"),
            ("1.500000", "1.5"),
            ("007", "7"),
        ] {
            assert_eq!(price(text).to_string(), shown);
        }
        for text in [
            "", ".", "1.", ".5", "-1", "1e3", "1,5", "0x1", " 1", "1.2.3", "NaN",
        ] {
            assert_eq!(Price::parse(text), Err(PriceError::NotDecimal), "{text}");
        }
        assert_eq!(Price::parse("0.0001"), Err(PriceError::TooFine));
        assert_eq!(Price::parse("1000000.001"), Err(PriceError::TooHigh));
        assert_eq!(
            Price::parse("99999999999999999999"),
            Err(PriceError::TooHigh)
        );
    }

    #[test]
    fn the_longest_name_that_fits_has_the_price() {
        let cheap = Prices::default();
        let table = PriceTable::new(vec![
            ("gpt-realtime*".into(), priced()),
            ("gpt-realtime-mini*".into(), cheap),
            ("gpt-realtime-mini-2".into(), priced()),
        ]);
        assert_eq!(table.of("gpt-realtime-2025"), Some(&priced()));
        assert_eq!(table.of("gpt-realtime-mini"), Some(&cheap));
        assert_eq!(table.of("gpt-realtime-mini-2"), Some(&priced()));
        assert_eq!(table.of("other"), None);
    }

    proptest! {
        #[test]
        fn a_price_survives_being_written(thousandths in 0..=DOLLARS_MAX * 1_000) {
            let price = Price(thousandths);
            prop_assert_eq!(Price::parse(&price.to_string()), Ok(price));
        }
    }
}
