//! `[preference]`: the method and its settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[preference]`. What a method does not have is refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceSection {
    /// `dpo`, `ipo`, `kto`, `orpo` or `simpo`.
    pub method: MethodSetting,
    /// `prompts`: each prompt weighs the same, whatever its number of pairs (of KTO: of responses); `pairs`: each of those.
    pub weigh: WeighSetting,
    /// Of dpo, ipo and kto: weight of the divergence from the reference, 0.1 if absent; the smaller, the further the policy
    /// may go. Of simpo: scale of the mean log-probability, 2 if absent.
    #[schemars(example = 0.1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// Of dpo: the probability that a label is the wrong way round, 0 to 0.5; 0 if absent.
    #[schemars(example = 0.0)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// Of ipo: `summed`, log-ratios of whole responses, or `per-token`, their means over a response's tokens; `summed` if
    /// absent.
    #[schemars(example = &"summed")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<IpoFormSetting>,
    /// Of kto: whether the weights follow from how many responses are desirable and undesirable, so that the former weigh 1 to 4/3 times
    /// what the latter do in all; `true` unless one of the weights is given.
    #[schemars(example = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<bool>,
    /// Of kto without `balance`: weight of desirable responses, 1 if absent.
    #[schemars(example = 1.0)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desirable_weight: Option<f64>,
    /// Of kto without `balance`: weight of undesirable responses, 1 if absent.
    #[schemars(example = 1.0)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undesirable_weight: Option<f64>,
    /// Of orpo: weight of the odds ratio's term beside the supervised one, 0.1 if absent.
    #[schemars(example = 0.1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub odds_ratio_coef: Option<f64>,
    /// Of orpo: what the supervised term is a mean over, `responses` or `tokens`; `responses` if absent.
    #[schemars(example = &"responses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sft_mean: Option<SftMeanSetting>,
    /// Of simpo: by how much the chosen response's implicit reward should exceed the rejected one's, 1 if absent.
    #[schemars(example = 1.0)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f64>,
}

impl PreferenceSection {
    /// Gives the keys of the method that are absent their values.
    pub(crate) fn resolve(&mut self) {
        match self.method {
            MethodSetting::Dpo => {
                self.beta.get_or_insert(0.1);
                self.label_smoothing.get_or_insert(0.0);
            }
            MethodSetting::Ipo => {
                self.beta.get_or_insert(0.1);
                self.form.get_or_insert(IpoFormSetting::Summed);
            }
            MethodSetting::Kto => {
                self.beta.get_or_insert(0.1);
                let given = self.desirable_weight.is_some() || self.undesirable_weight.is_some();
                if self.balance != Some(true) && (given || self.balance == Some(false)) {
                    self.desirable_weight.get_or_insert(1.0);
                    self.undesirable_weight.get_or_insert(1.0);
                }
                self.balance.get_or_insert(!given);
            }
            MethodSetting::Orpo => {
                self.odds_ratio_coef.get_or_insert(0.1);
                self.sft_mean.get_or_insert(SftMeanSetting::Responses);
            }
            MethodSetting::Simpo => {
                self.beta.get_or_insert(2.0);
                self.gamma.get_or_insert(1.0);
            }
        }
    }
}

/// A method of preference tuning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MethodSetting {
    /// Direct preference optimisation.
    #[default]
    Dpo,
    /// Identity preference optimisation.
    Ipo,
    /// Kahneman-Tversky optimisation.
    Kto,
    /// Odds ratio preference optimisation.
    Orpo,
    /// Simple preference optimisation.
    Simpo,
}

impl MethodSetting {
    /// Its name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dpo => "dpo",
            Self::Ipo => "ipo",
            Self::Kto => "kto",
            Self::Orpo => "orpo",
            Self::Simpo => "simpo",
        }
    }

    /// Whether it compares the policy with the model that it started from.
    pub fn has_reference(self) -> bool {
        matches!(self, Self::Dpo | Self::Ipo | Self::Kto)
    }
}

/// What weighs the same in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeighSetting {
    /// Each prompt.
    #[default]
    Prompts,
    /// Each pair; of KTO, each response.
    Pairs,
}

/// Which log-ratios IPO compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IpoFormSetting {
    /// Those of whole responses, as the paper has it.
    #[default]
    Summed,
    /// Their means over a response's tokens, as TRL has it.
    PerToken,
}

/// What ORPO's supervised term is a mean over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SftMeanSetting {
    /// Over responses, of the mean over each one's tokens.
    #[default]
    Responses,
    /// Over the tokens of all chosen responses.
    Tokens,
}
