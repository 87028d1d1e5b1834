//! Alternating runs compared: the ratio of CPU per frame, its median and how sure that is. Pure.

/// A median with the interval that holds it in at least 95 of 100 such series, where there are enough pairs for one.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Ours divided by theirs, a pair each, in order of value.
    pub ratios: Vec<f64>,
    /// The middle.
    pub median: f64,
    /// From, to; `None` with fewer than six pairs.
    pub interval: Option<(f64, f64)>,
}

/// Compares pairs of (ours, theirs). `None` without any.
pub fn compare(pairs: &[(f64, f64)]) -> Option<Compared> {
    let mut ratios: Vec<f64> = pairs
        .iter()
        .filter(|(_, theirs)| *theirs > 0.0)
        .map(|(ours, theirs)| ours / theirs)
        .collect();
    if ratios.is_empty() {
        return None;
    }
    ratios.sort_by(f64::total_cmp);
    let n = ratios.len();
    let median = (ratios[(n - 1) / 2] + ratios[n / 2]) / 2.0;
    // Whatever the distribution, a value is below the true median with a chance of one half: how many are is binomial, and
    // the k-th from either end bounds the median unless fewer than k are on one side.
    let mut chance = 0.5f64.powi(n as i32);
    let mut below = 0.0;
    let mut rank = 0;
    for k in 0..n {
        below += chance;
        if below > 0.025 {
            break;
        }
        rank = k + 1;
        chance *= (n - k) as f64 / (k + 1) as f64;
    }
    let interval = (rank > 0).then(|| (ratios[rank - 1], ratios[n - rank]));
    Some(Compared {
        ratios,
        median,
        interval,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ratios: &[f64]) -> Compared {
        let pairs: Vec<(f64, f64)> = ratios.iter().map(|ratio| (ratio * 9.0, 9.0)).collect();
        compare(&pairs).expect("pairs")
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert!((of(&[1.2, 0.8, 1.0]).median - 1.0).abs() < 1e-9);
        assert!((of(&[1.2, 0.8]).median - 1.0).abs() < 1e-9);
        assert_eq!(compare(&[]), None);
        assert_eq!(compare(&[(1.0, 0.0)]), None);
    }

    #[test]
    fn the_interval_has_the_ranks_of_the_sign_test() {
        // Tables of the sign test: 6 pairs give ranks 1 and 6, 10 pairs 2 and 9, 20 pairs 6 and 15.
        for (n, low, high) in [(6, 1, 6), (10, 2, 9), (20, 6, 15)] {
            let ratios: Vec<f64> = (1..=n).map(f64::from).collect();
            let (from, to) = of(&ratios).interval.expect("enough pairs");
            assert!(
                (from - f64::from(low)).abs() < 1e-9 && (to - f64::from(high)).abs() < 1e-9,
                "{n}"
            );
        }
        assert_eq!(of(&[1.0, 1.1, 1.2, 1.3, 1.4]).interval, None);
    }
}
