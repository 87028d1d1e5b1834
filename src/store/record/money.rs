//! Tokens and what they cost, by the exact prices of `base::money`. Core.

pub use crate::base::money::{Nano, Price, PriceTable, Prices};
use serde::{Deserialize, Serialize};

/// Tokens of one response, or the sum of several. Cached ones are part of those read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Text read, cached or not.
    pub text_input: u64,
    /// Of those, from the cache.
    pub text_cached: u64,
    /// Audio read, cached or not.
    pub audio_input: u64,
    /// Of those, from the cache.
    pub audio_cached: u64,
    /// Text generated, thoughts among it.
    pub text_output: u64,
    /// Audio generated, heard or not.
    pub audio_output: u64,
}

impl Usage {
    /// From the counts of `response.done.usage`, which servers leave out one by one: what has no kind is text, cached
    /// tokens without one are the cheaper kind's last, and no part is larger than its whole.
    pub fn from_counts(counts: &Counts) -> Usage {
        let audio_input = counts.input_audio.min(counts.input);
        // Images and whatever else a later model reads count as text; so does a total without parts.
        let text_input = counts.input - audio_input;
        let audio_cached = counts.cached_audio.min(audio_input);
        let kinds = counts.cached_text.saturating_add(counts.cached_audio);
        let cached = counts.cached.max(kinds);
        let text_cached = (cached - audio_cached).min(text_input);
        let audio_output = counts.output_audio.min(counts.output);
        Usage {
            text_input,
            text_cached,
            audio_input,
            // A cached count without a kind is text's as far as there is text, then audio's.
            audio_cached: audio_cached.max((cached - text_cached).min(audio_input)),
            text_output: counts.output - audio_output,
            audio_output,
        }
    }

    /// What it costs.
    pub fn cost(&self, prices: &Prices) -> Nano {
        let fresh = |all: u64, cached: u64| all.saturating_sub(cached);
        [
            prices
                .text_input
                .of(fresh(self.text_input, self.text_cached)),
            prices.text_cached.of(self.text_cached.min(self.text_input)),
            prices.text_output.of(self.text_output),
            prices
                .audio_input
                .of(fresh(self.audio_input, self.audio_cached)),
            prices
                .audio_cached
                .of(self.audio_cached.min(self.audio_input)),
            prices.audio_output.of(self.audio_output),
        ]
        .into_iter()
        .fold(Nano(0), Nano::plus)
    }

    /// Adds another's tokens.
    pub fn add(&mut self, other: &Usage) {
        let pairs = [
            (&mut self.text_input, other.text_input),
            (&mut self.text_cached, other.text_cached),
            (&mut self.audio_input, other.audio_input),
            (&mut self.audio_cached, other.audio_cached),
            (&mut self.text_output, other.text_output),
            (&mut self.audio_output, other.audio_output),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        [
            self.text_input,
            self.audio_input,
            self.text_output,
            self.audio_output,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

/// The counts of a response as the model reports them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Everything read.
    pub input: u64,
    /// Of that, audio.
    pub input_audio: u64,
    /// Of what was read, from the cache.
    pub cached: u64,
    /// Of those, text.
    pub cached_text: u64,
    /// Of those, audio.
    pub cached_audio: u64,
    /// Everything generated.
    pub output: u64,
    /// Of that, audio.
    pub output_audio: u64,
}

impl From<&crate::call::fact::Usage> for Counts {
    fn from(usage: &crate::call::fact::Usage) -> Self {
        Self {
            input: usage.input_tokens,
            input_audio: usage.input_audio_tokens,
            cached: usage.cached_tokens,
            cached_text: usage.cached_text_tokens,
            cached_audio: usage.cached_audio_tokens,
            output: usage.output_tokens,
            output_audio: usage.output_audio_tokens,
        }
    }
}

/// A call's account.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Account {
    /// Tokens of all responses.
    pub usage: Usage,
    /// What those cost whose price was known.
    pub cost: Nano,
    /// Responses.
    pub responses: u64,
    /// Of those, the ones whose model is not in the price table: `cost` is too low when this is not 0.
    pub unpriced: u64,
}

impl Account {
    /// Adds a response.
    pub fn add(&mut self, usage: &Usage, cost: Option<Nano>) {
        self.usage.add(usage);
        self.responses = self.responses.saturating_add(1);
        match cost {
            Some(cost) => self.cost = self.cost.plus(cost),
            None => self.unpriced = self.unpriced.saturating_add(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(text: &str) -> Price {
        Price::parse(text).unwrap()
    }

    /// The shape of a speech model's price list.
    fn prices() -> Prices {
        Prices {
            text_input: price("4"),
            text_cached: price("0.4"),
            text_output: price("16"),
            audio_input: price("32"),
            audio_cached: price("0.40"),
            audio_output: price("64.0"),
        }
    }

    #[test]
    fn a_bill_is_right_to_the_last_digit() {
        let usage = Usage {
            text_input: 1_200,
            text_cached: 1_000,
            audio_input: 501,
            audio_cached: 1,
            text_output: 37,
            audio_output: 333,
        };
        // By hand, dollars: 200*4 + 1000*0.4 + 37*16 + 500*32 + 1*0.4 + 333*64, a million times too much.
        assert_eq!(usage.cost(&prices()).to_string(), "0.039104400");
        assert_eq!(usage.total(), 1_200 + 501 + 37 + 333);
    }

    #[test]
    fn cached_tokens_are_never_paid_twice() {
        let mut usage = Usage {
            audio_input: 1_000_000,
            ..Usage::default()
        };
        assert_eq!(usage.cost(&prices()).to_string(), "32.000000000");
        usage.audio_cached = 1_000_000;
        assert_eq!(usage.cost(&prices()).to_string(), "0.400000000");
        // Nonsense of a server's costs no more than everything it named.
        usage.audio_cached = u64::MAX;
        assert_eq!(usage.cost(&prices()).to_string(), "0.400000000");
    }

    #[test]
    fn counts_that_a_server_leaves_out_are_filled_in() {
        let bare = Counts {
            input: 100,
            output: 20,
            cached: 60,
            ..Counts::default()
        };
        let usage = Usage::from_counts(&bare);
        assert_eq!((usage.text_input, usage.text_cached), (100, 60));
        assert_eq!((usage.text_output, usage.audio_output), (20, 0));
        let full = Counts {
            input: 100,
            input_audio: 70,
            cached: 50,
            cached_text: 20,
            cached_audio: 30,
            output: 20,
            output_audio: 15,
        };
        assert_eq!(
            Usage::from_counts(&full),
            Usage {
                text_input: 30,
                text_cached: 20,
                audio_input: 70,
                audio_cached: 30,
                text_output: 5,
                audio_output: 15,
            }
        );
        // Only a sum of the cached: text first, the rest is audio's.
        let sum = Counts {
            cached_text: 0,
            cached_audio: 0,
            ..full
        };
        let usage = Usage::from_counts(&sum);
        assert_eq!((usage.text_cached, usage.audio_cached), (30, 20));
    }

    #[test]
    fn what_has_no_price_is_said_to_have_none() {
        let mut account = Account::default();
        let usage = Usage {
            text_input: 5,
            ..Usage::default()
        };
        account.add(&usage, Some(Nano(7)));
        account.add(&usage, None);
        assert_eq!(
            (account.cost, account.responses, account.unpriced),
            (Nano(7), 2, 1)
        );
        assert_eq!(account.usage.text_input, 10);
    }

    proptest! {
        #[test]
        fn no_counts_make_more_tokens_than_there_are(
            input: u32, input_audio: u32, cached: u32, cached_text: u32, cached_audio: u32, output: u32, output_audio: u32,
        ) {
            let usage = Usage::from_counts(&Counts {
                input: input.into(),
                input_audio: input_audio.into(),
                cached: cached.into(),
                cached_text: cached_text.into(),
                cached_audio: cached_audio.into(),
                output: output.into(),
                output_audio: output_audio.into(),
            });
            prop_assert_eq!(usage.total(), u64::from(input) + u64::from(output));
            prop_assert!(usage.text_cached <= usage.text_input);
            prop_assert!(usage.audio_cached <= usage.audio_input);
        }
    }
}
