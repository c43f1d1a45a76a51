//! Conditions on system call arguments as the runtime specification has them (config-linux.md, "seccomp", `args`), and the
//! little algebra that merging needs: what two conditions on one argument have in common, and what a condition leaves.
//!
//! libseccomp takes at most one comparison per argument and rule, so "both" must come out as single comparisons again. On
//! 32-bit architectures it compares the low halves of value and mask only. Therefore sets are taken apart into pieces
//! that mean the same in both widths; what cannot be expressed so is reported as lost, never guessed.

use serde_json::Value;
use serde_json::json;

/// The comparison of a condition, seccomp_rule_add(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `SCMP_CMP_NE`.
    NotEqual,
    /// `SCMP_CMP_LT`.
    Less,
    /// `SCMP_CMP_LE`.
    LessOrEqual,
    /// `SCMP_CMP_EQ`.
    Equal,
    /// `SCMP_CMP_GE`.
    GreaterOrEqual,
    /// `SCMP_CMP_GT`.
    Greater,
    /// `SCMP_CMP_MASKED_EQ`: `value` is the mask, `value_two` what must be left.
    MaskedEqual,
}

impl Comparison {
    const NAMES: [(Self, &'static str); 7] = [
        (Self::NotEqual, "SCMP_CMP_NE"),
        (Self::Less, "SCMP_CMP_LT"),
        (Self::LessOrEqual, "SCMP_CMP_LE"),
        (Self::Equal, "SCMP_CMP_EQ"),
        (Self::GreaterOrEqual, "SCMP_CMP_GE"),
        (Self::Greater, "SCMP_CMP_GT"),
        (Self::MaskedEqual, "SCMP_CMP_MASKED_EQ"),
    ];

    /// The comparison of a name out of a profile.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(comparison, _)| *comparison)
    }

    /// The name in a profile.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES.iter().find(|(known, _)| *known == self).map_or("SCMP_CMP_EQ", |(_, name)| name)
    }
}

/// One condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Argument, 0 to 5.
    pub index: u32,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what; the mask of [`Comparison::MaskedEqual`].
    pub value: u64,
    /// What must be left of [`Comparison::MaskedEqual`]; 0 otherwise.
    pub value_two: u64,
}

/// The low half of an argument.
const LOW: u64 = 0xffff_ffff;
/// The high half.
const HIGH: u64 = !LOW;

/// A part of the values of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    /// The masked bits of the low half have this value; the high half is zero if `high_zero`, anything otherwise.
    Low { mask: u64, value: u64, high_zero: bool },
    /// The high half is not zero. On a 32-bit architecture that is never.
    High,
}

/// A set of argument values, expressed by single conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expressed {
    /// Conditions of which no two hold together.
    pub conditions: Vec<Condition>,
    /// Whether some of it cannot be expressed by single conditions and is missing.
    pub lost: bool,
}

impl Condition {
    /// `argument & mask == value`.
    #[must_use]
    pub const fn masked(index: u32, mask: u64, value: u64) -> Self {
        Self { index, comparison: Comparison::MaskedEqual, value: mask, value_two: value }
    }

    const fn plain(index: u32, comparison: Comparison, value: u64) -> Self {
        Self { index, comparison, value, value_two: 0 }
    }

    /// As in a profile.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut object = json!({"index": self.index, "value": self.value});
        if self.comparison == Comparison::MaskedEqual {
            object["valueTwo"] = json!(self.value_two);
        }
        object["op"] = json!(self.comparison.as_str());
        object
    }

    /// Whether it holds for these arguments (64-bit architecture).
    #[must_use]
    pub fn holds(&self, arguments: &[u64; 6]) -> bool {
        let argument = usize::try_from(self.index).ok().and_then(|index| arguments.get(index)).copied().unwrap_or(0);
        match self.comparison {
            Comparison::NotEqual => argument != self.value,
            Comparison::Less => argument < self.value,
            Comparison::LessOrEqual => argument <= self.value,
            Comparison::Equal => argument == self.value,
            Comparison::GreaterOrEqual => argument >= self.value,
            Comparison::Greater => argument > self.value,
            Comparison::MaskedEqual => argument & self.value == self.value_two,
        }
    }

    /// Whether it compares high halves only, under a mask. On 32-bit architectures libseccomp passes over it.
    #[must_use]
    pub const fn is_high_only(&self) -> bool {
        matches!(self.comparison, Comparison::MaskedEqual) && self.value & LOW == 0 && self.value != 0
    }

    /// Whether it is EQ or MASKED_EQ. What libseccomp 2.5.4 makes of several rules of one call that compare otherwise is not
    /// always what they say (EQ 0 and GT 1 together let 1 through).
    #[must_use]
    pub const fn is_equality(&self) -> bool {
        matches!(self.comparison, Comparison::Equal | Comparison::MaskedEqual)
    }

    /// Whether libseccomp turns the comparison around and acts where it does not hold (`_db_rule_gen_64`). Several rules
    /// that share such a comparison may come out with one of them missing (seen with 2.5.4), so none is made here.
    #[must_use]
    pub const fn is_inverted(&self) -> bool {
        matches!(self.comparison, Comparison::NotEqual | Comparison::Less | Comparison::LessOrEqual)
    }

    /// The same without inverted comparisons.
    #[must_use]
    pub fn upright(&self) -> Expressed {
        if !self.is_inverted() {
            return Expressed { conditions: vec![*self], lost: false };
        }
        if !self.is_simple() {
            return Expressed { conditions: Vec::new(), lost: true };
        }
        let below = below(self.value).map(|piece| piece.condition(self.index));
        let more = match self.comparison {
            Comparison::NotEqual => Some(Self::plain(self.index, Comparison::Greater, self.value)),
            Comparison::LessOrEqual => Some(Self::plain(self.index, Comparison::Equal, self.value)),
            _ => None,
        };
        Expressed { conditions: below.chain(more).collect(), lost: false }
    }

    /// Everything for which it does not hold, without inverted comparisons.
    #[must_use]
    pub fn negated(&self) -> Expressed {
        let plain = |comparison| Self::plain(self.index, comparison, self.value);
        let below = |limit: u64| below(limit).map(|piece| piece.condition(self.index));
        let conditions = match self.comparison {
            Comparison::NotEqual => vec![plain(Comparison::Equal)],
            Comparison::Less => vec![plain(Comparison::GreaterOrEqual)],
            Comparison::LessOrEqual => vec![plain(Comparison::Greater)],
            _ if !self.is_simple() => return Expressed { conditions: Vec::new(), lost: true },
            Comparison::Equal => below(self.value).chain([plain(Comparison::Greater)]).collect(),
            Comparison::GreaterOrEqual => below(self.value).collect(),
            Comparison::Greater => below(self.value).chain([plain(Comparison::Equal)]).collect(),
            Comparison::MaskedEqual if self.value & HIGH != 0 => {
                return Expressed { conditions: Vec::new(), lost: true };
            }
            Comparison::MaskedEqual => bits_of(self.value)
                .map(|bit| {
                    let mask = self.value & !(bit - 1);
                    Self::masked(self.index, mask, (self.value_two ^ bit) & mask)
                })
                .collect(),
        };
        Expressed { conditions, lost: false }
    }

    /// Whether it means the same to libseccomp in 32 and 64 bits, and is well formed.
    fn is_simple(&self) -> bool {
        match self.comparison {
            Comparison::MaskedEqual => {
                let high = self.value & HIGH;
                (high == 0 || high == HIGH) && self.value_two & HIGH == 0 && self.value_two & !self.value == 0
            }
            _ => self.value <= LOW,
        }
    }

    fn pieces(&self) -> Vec<Piece> {
        let above =
            |limit: u64| bits_of(!limit & LOW).map(move |bit| cube(LOW & !(bit - 1), (limit | bit) & !(bit - 1)));
        let value = self.value;
        match self.comparison {
            Comparison::Equal => vec![cube(LOW, value)],
            Comparison::Less => below(value).collect(),
            Comparison::LessOrEqual => below(value).chain([cube(LOW, value)]).collect(),
            Comparison::Greater => above(value).chain([Piece::High]).collect(),
            Comparison::GreaterOrEqual => above(value).chain([cube(LOW, value), Piece::High]).collect(),
            Comparison::NotEqual => below(value).chain(above(value)).chain([Piece::High]).collect(),
            Comparison::MaskedEqual => {
                vec![Piece::Low { mask: value & LOW, value: self.value_two, high_zero: value & HIGH != 0 }]
            }
        }
    }

    /// What holds where both this and `other` hold. Both must be about the same argument.
    #[must_use]
    pub fn and(&self, other: &Self) -> Expressed {
        if self == other {
            return Expressed { conditions: vec![*self], lost: false };
        }
        if !self.is_simple() || !other.is_simple() {
            return Expressed { conditions: Vec::new(), lost: true };
        }
        let mut common = Expressed { conditions: Vec::new(), lost: false };
        for left in self.pieces() {
            for right in other.pieces() {
                match left.and(right) {
                    Meeting::Nothing => {}
                    Meeting::Lost => common.lost = true,
                    Meeting::Piece(piece) => common.conditions.push(piece.condition(self.index)),
                }
            }
        }
        common
    }
}

/// A piece whose high half is zero.
const fn cube(mask: u64, value: u64) -> Piece {
    Piece::Low { mask, value, high_zero: true }
}

/// The values below `limit`, which fits into the low half.
fn below(limit: u64) -> impl Iterator<Item = Piece> {
    bits_of(limit).map(move |bit| cube(LOW & !(bit - 1), limit & !bit & !(bit - 1)))
}

/// The single bits of `mask`, the highest first.
fn bits_of(mask: u64) -> impl Iterator<Item = u64> {
    (0..64).rev().map(|position| 1_u64 << position).filter(move |bit| mask & bit != 0)
}

/// What two pieces have in common.
enum Meeting {
    Nothing,
    Piece(Piece),
    Lost,
}

impl Piece {
    fn and(self, other: Self) -> Meeting {
        match (self, other) {
            (Self::High, Self::High) => Meeting::Piece(Self::High),
            (Self::High, Self::Low { mask, high_zero, .. }) | (Self::Low { mask, high_zero, .. }, Self::High) => {
                match (high_zero, mask) {
                    (true, _) => Meeting::Nothing,
                    (false, 0) => Meeting::Piece(Self::High),
                    (false, _) => Meeting::Lost,
                }
            }
            (
                Self::Low { mask, value, high_zero },
                Self::Low { mask: mask_two, value: value_two, high_zero: zero_two },
            ) => {
                if value & mask_two == value_two & mask {
                    let high_zero = high_zero || zero_two;
                    Meeting::Piece(Self::Low { mask: mask | mask_two, value: value | value_two, high_zero })
                } else {
                    Meeting::Nothing
                }
            }
        }
    }

    const fn condition(self, index: u32) -> Condition {
        match self {
            Self::High => Condition::plain(index, Comparison::Greater, LOW),
            Self::Low { mask: LOW, value, high_zero: true } => Condition::plain(index, Comparison::Equal, value),
            Self::Low { mask, value, high_zero: true } => Condition::masked(index, HIGH | mask, value),
            Self::Low { mask, value, high_zero: false } => Condition::masked(index, mask, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..16, 0_u64..0x1_0000_0000, Just(LOW), Just(LOW + 1), any::<u64>()]
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let comparison = (0..Comparison::NAMES.len()).prop_map(|index| Comparison::NAMES[index].0);
        (comparison, word(), word()).prop_map(|(comparison, value, value_two)| match comparison {
            Comparison::MaskedEqual => Condition::masked(0, value, value & value_two),
            _ => Condition::plain(0, comparison, value),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn and_holds_where_both_hold(left in condition(), right in condition(), argument in word()) {
            let arguments = [argument, 0, 0, 0, 0, 0];
            let common = left.and(&right);
            let matching = common.conditions.iter().filter(|one| one.holds(&arguments)).count();
            let both = left.holds(&arguments) && right.holds(&arguments);
            prop_assert!(matching <= 1);
            if matching == 1 {
                prop_assert!(both);
            } else if !common.lost {
                prop_assert!(!both);
            }
        }

        #[test]
        fn negated_is_the_rest(condition in condition(), argument in word()) {
            let arguments = [argument, 0, 0, 0, 0, 0];
            let rest = condition.negated();
            let matching = rest.conditions.iter().filter(|one| one.holds(&arguments)).count();
            prop_assert!(rest.lost || matching == usize::from(!condition.holds(&arguments)));
            let same = condition.upright();
            let matching = same.conditions.iter().filter(|one| one.holds(&arguments)).count();
            prop_assert!(same.lost || matching == usize::from(condition.holds(&arguments)));
            prop_assert!(rest.conditions.iter().chain(&same.conditions).all(|one| !one.is_inverted()));
        }
    }
}
