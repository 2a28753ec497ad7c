//! The ways to write a sparse weight in ONNX, and which tools load which.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// How an ONNX file stores its convolution and linear weights. A weight that takes fewer bytes dense stays dense in
/// every form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnnxForm {
    /// Initializers with zeros: 4 bytes a weight.
    Dense,
    /// Places and values that `ConstantOfShape`, `ScatterElements` and `Reshape` put together: 4 bytes and 1 to 4 for
    /// the place a non-zero.
    Scatter,
    /// As `Scatter`, each place as its distance from the one before, which `CumSum` adds up: 5 bytes a non-zero.
    Gap,
    /// ONNX's `sparse_initializer`: 4 bytes and 1 to 4 for the place a non-zero.
    SparseInit,
    /// `Constant` nodes with a `sparse_value`: as many bytes.
    SparseConst,
}

/// A tool that reads ONNX files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnnxReader {
    /// ONNX Runtime.
    Ort,
    /// OpenVINO.
    OpenVino,
    /// tract.
    Tract,
    /// RTen.
    Rten,
    /// OpenCV's `dnn`.
    OpenCv,
    /// The reference evaluator of the `onnx` package.
    Onnx,
    /// Every one of them.
    Any,
}

/// A choice of ONNX forms that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxFormError {
    /// No form or reader has this name.
    #[error("unknown {what} {name:?}, expected one of {expected}")]
    Unknown {
        /// `form` or `reader`.
        what: &'static str,
        /// The name given.
        name: String,
        /// All names.
        expected: String,
    },
    /// The reader asked for does not load the form asked for.
    #[error("{reader} does not load ONNX files of form {form}; it loads {loads}")]
    NotLoaded {
        /// The reader.
        reader: OnnxReader,
        /// The form.
        form: OnnxForm,
        /// The forms it does load.
        loads: String,
    },
    /// One form twice.
    #[error("ONNX form {0} is named twice")]
    Twice(OnnxForm),
}

impl OnnxForm {
    /// Every form.
    pub const ALL: [Self; 5] = [Self::Dense, Self::Scatter, Self::Gap, Self::SparseInit, Self::SparseConst];

    /// Name on the command line and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Scatter => "scatter",
            Self::Gap => "gap",
            Self::SparseInit => "sparse-init",
            Self::SparseConst => "sparse-const",
        }
    }

    /// The tools that load it.
    pub fn readers(self) -> Vec<OnnxReader> {
        OnnxReader::ALL.into_iter().filter(|reader| *reader != OnnxReader::Any && reader.loads(self)).collect()
    }

    /// What its files hold, for people.
    pub(crate) fn content(self) -> String {
        let weights = match self {
            Self::Dense => "dense initializers",
            Self::Scatter => "non-zeros that `ScatterElements` puts in place",
            Self::Gap => "non-zeros that `CumSum` of their distances and `ScatterElements` put in place",
            Self::SparseInit => "sparse initializers",
            Self::SparseConst => "sparse constants",
        };
        format!("{weights}, loaded by {}", names(self.readers()))
    }

    /// The forms to write when `asked` are asked for, or `target` is to load the file, or both; neither means dense.
    ///
    /// # Errors
    /// A form that `target` does not load, and a form twice.
    pub fn choose(asked: &[Self], target: Option<OnnxReader>) -> Result<Vec<Self>, OnnxFormError> {
        let repeated = asked.iter().enumerate().find(|(index, form)| asked[..*index].contains(form));
        if let Some((_, form)) = repeated {
            return Err(OnnxFormError::Twice(*form));
        }
        if let Some(reader) = target
            && let Some(form) = asked.iter().copied().find(|form| !reader.loads(*form))
        {
            let loads = names(Self::ALL.into_iter().filter(|form| reader.loads(*form)));
            return Err(OnnxFormError::NotLoaded { reader, form, loads });
        }
        Ok(match (asked, target) {
            ([], None) => vec![Self::Dense],
            ([], Some(reader)) => vec![reader.smallest()],
            _ => asked.to_vec(),
        })
    }
}

impl OnnxReader {
    /// Every reader, then all of them together.
    pub const ALL: [Self; 7] =
        [Self::Ort, Self::OpenVino, Self::Tract, Self::Rten, Self::OpenCv, Self::Onnx, Self::Any];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ort => "ort",
            Self::OpenVino => "openvino",
            Self::Tract => "tract",
            Self::Rten => "rten",
            Self::OpenCv => "opencv",
            Self::Onnx => "onnx",
            Self::Any => "any",
        }
    }

    /// Whether it runs files of this form, as tried with each.
    pub fn loads(self, form: OnnxForm) -> bool {
        match form {
            OnnxForm::Dense | OnnxForm::Scatter | OnnxForm::Gap => true,
            OnnxForm::SparseInit => self == Self::Ort,
            OnnxForm::SparseConst => matches!(self, Self::Ort | Self::OpenVino),
        }
    }

    /// The smallest form whose weights it puts together once, when it loads the file: OpenVINO adds up gaps anew in
    /// each run.
    fn smallest(self) -> OnnxForm {
        match self {
            Self::OpenVino | Self::Any => OnnxForm::Scatter,
            _ => OnnxForm::Gap,
        }
    }
}

fn names<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for OnnxForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for OnnxReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for OnnxForm {
    type Err = OnnxFormError;

    fn from_str(name: &str) -> Result<Self, OnnxFormError> {
        let unknown = || OnnxFormError::Unknown { what: "form", name: name.into(), expected: names(Self::ALL) };
        Self::ALL.into_iter().find(|form| form.name() == name).ok_or_else(unknown)
    }
}

impl FromStr for OnnxReader {
    type Err = OnnxFormError;

    fn from_str(name: &str) -> Result<Self, OnnxFormError> {
        let unknown = || OnnxFormError::Unknown { what: "reader", name: name.into(), expected: names(Self::ALL) };
        Self::ALL.into_iter().find(|reader| reader.name() == name).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_gets_a_form_that_it_loads() {
        for reader in OnnxReader::ALL {
            let [form] = OnnxForm::choose(&[], Some(reader)).unwrap()[..] else { panic!("one form for {reader}") };
            assert!(reader.loads(form) && form != OnnxForm::Dense, "{reader}: {form}");
        }
        assert_eq!(OnnxForm::choose(&[], None).unwrap(), [OnnxForm::Dense]);
        let asked = [OnnxForm::Gap, OnnxForm::Dense];
        assert_eq!(OnnxForm::choose(&asked, Some(OnnxReader::Any)).unwrap(), asked);
    }

    #[test]
    fn contradictions_are_refused() {
        let message = |asked: &[OnnxForm], target| OnnxForm::choose(asked, target).unwrap_err().to_string();
        let refused = message(&[OnnxForm::Gap, OnnxForm::SparseInit], Some(OnnxReader::OpenVino));
        assert_eq!(
            refused,
            "openvino does not load ONNX files of form sparse-init; it loads dense, scatter, gap, sparse-const"
        );
        assert_eq!(message(&[OnnxForm::Gap; 2], None), "ONNX form gap is named twice");
        assert!(
            "zip"
                .parse::<OnnxForm>()
                .unwrap_err()
                .to_string()
                .ends_with("dense, scatter, gap, sparse-init, sparse-const")
        );
        assert!("tflite".parse::<OnnxReader>().unwrap_err().to_string().starts_with("unknown reader \"tflite\""));
    }
}
