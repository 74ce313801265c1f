//! Medians with their spread, and ratios between runs that were made in turn.

use tidegate_benches::median;

/// The middle of some numbers, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` where there is nothing.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let least = values.iter().copied().reduce(f64::min)?;
        let most = values.iter().copied().reduce(f64::max)?;
        Some(Self { median: median(values.iter().copied()), least, most })
    }

    /// How many times the numbers of `floor` these are, each by that of its own turn.
    pub(crate) fn of_ratios(values: &[f64], floor: &[f64]) -> Option<Self> {
        let ratios: Vec<_> = values.iter().zip(floor).filter(|(_, floor)| **floor > 0.0).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }

    /// `12.3 [11.0 .. 14.1]`, or the number alone where there is one.
    pub(crate) fn text(&self) -> String {
        let Self { median, least, most } = *self;
        if least == most {
            return number(median);
        }
        format!("{} [{} .. {}]", number(median), number(least), number(most))
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_ends() {
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("three");
        assert_eq!((spread.median, spread.least, spread.most), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_ratio_is_that_of_its_own_turn() {
        // A machine that is slow in the second turn is slow for both.
        let spread = Spread::of_ratios(&[20.0, 60.0, 20.0], &[10.0, 30.0, 10.0]).expect("three");
        assert_eq!((spread.median, spread.least, spread.most), (2.0, 2.0, 2.0));
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
    }

    #[test]
    fn numbers_are_short() {
        let text = |least, most| Spread { median: least, least, most }.text();
        assert_eq!(text(0.1234, 0.1234), "0.123");
        assert_eq!(text(12.34, 1234.5), "12.3 [12.3 .. 1234]");
        assert_eq!(text(0.0, 0.0), "0");
    }
}
