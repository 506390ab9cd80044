//! Words of a fixed set.

/// Makes an enum whose values are words of the configuration. The first variant is the absent value.
///
/// ```
/// crosspoint_schema::string_enum! {
///     /// How to greet.
///     pub enum Greeting: "unknown greeting: " {
///         /// Not at all.
///         None = "" | "none",
///         /// With a word.
///         Hello = "hello",
///     }
/// }
/// assert_eq!(Greeting::Hello.as_str(), "hello");
/// ```
#[macro_export]
macro_rules! string_enum {
    (
        $(#[doc = $doc:literal])*
        $vis:vis enum $name:ident: $unknown:literal {
            $(#[doc = $fdoc:literal])* $first:ident = $fword:literal $(| $falias:literal)*,
            $($(#[doc = $vdoc:literal])* $variant:ident = $word:literal $(| $alias:literal)*),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        $vis enum $name {
            $(#[doc = $fdoc])* #[default] $first,
            $($(#[doc = $vdoc])* $variant),*
        }

        impl $name {
            /// The word that is printed.
            #[must_use]
            $vis fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $fword,
                    $(Self::$variant => $word),*
                }
            }

            /// The value of a word.
            #[must_use]
            $vis fn from_word(word: &str) -> Option<Self> {
                match word {
                    $fword $(| $falias)* => Some(Self::$first),
                    $($word $(| $alias)* => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }

        impl $crate::decode::Field for $name {
            fn absent() -> Self {
                Self::$first
            }

            fn decode(cursor: &$crate::decode::Cursor<'_>) -> Result<Self, $crate::ConfigError> {
                let word = cursor.string()?;
                Self::from_word(word).ok_or_else(|| {
                    let known = &[$fword $(, $falias)* $(, $word $(, $alias)*)*];
                    let mut error = cursor.error(format!(concat!($unknown, "{}"), word));
                    error.hint = $crate::decode::nearest(word, known).map(|name| format!("did you mean `{name}`?"));
                    error
                })
            }

            fn to_json(&self) -> $crate::serde_json::Value {
                self.as_str().into()
            }

            fn go_type() -> ::std::borrow::Cow<'static, str> {
                concat!("option.", stringify!($name)).into()
            }

            fn schema(_: &mut $crate::json_schema::SchemaBuilder) -> $crate::serde_json::Value {
                $crate::serde_json::json!({"type": "string", "enum": [$fword $(, $falias)* $(, $word $(, $alias)*)*]})
            }
        }
    };
}
