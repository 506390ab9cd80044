//! The declarative macro that makes option structs.

/// Declares a set of options: the struct, its decoding, its canonical form and its description.
///
/// Each field is `name: Type = "key"`. After the key may stand `always` (printed even when absent, as the reference does for
/// fields without `omitempty`). `= flatten` takes another set of options into the same object. The string in parentheses is
/// the reference's name of the type, for error messages. Flags after it: `loose` lets unknown members pass, `checked` runs
/// [`Check::check`](crate::decode::Check::check) once all members decoded.
///
/// ```
/// use crosspoint_schema::decode::Secret;
/// crosspoint_schema::options! {
///     /// A user.
///     pub struct Account ("option.Account") {
///         /// The name.
///         pub name: String = "name" always,
///         /// The password.
///         pub password: Secret = "password",
///     }
/// }
/// assert_eq!(Account::default().name, "");
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident ($go:literal) $($flag:ident)* {
            $($(#[doc = $fdoc:literal])* $fvis:vis $field:ident: $ty:ty = $key:tt $($mode:ident)?),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        $vis struct $name {
            $($(#[doc = $fdoc])* $fvis $field: $ty),*
        }

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $crate::options!(@default $key, $ty)),* }
            }
        }

        impl $crate::decode::Options for $name {
            const GO_TYPE: &'static str = $go;
            const NAME: &'static str = stringify!($name);
            const LOOSE: bool = $crate::options!(@loose $($flag)*);

            #[allow(unused_variables)]
            fn decode_fields(object: &mut $crate::decode::ObjectCursor<'_>) -> Self {
                let value = Self { $($field: $crate::options!(@decode object, $key, $ty)),* };
                $crate::options!(@checked object, value, $($flag)*);
                value
            }

            #[allow(unused_variables)]
            fn encode_fields(&self, out: &mut $crate::decode::Map) {
                $($crate::options!(@encode out, self.$field, $key, $ty, $($mode)?);)*
            }

            #[allow(unused_variables)]
            fn describe(object: &mut $crate::json_schema::ObjectSchema<'_>) {
                object.describe(&[$($doc),*]);
                $($crate::options!(@describe object, $key, $ty, [$($fdoc),*]);)*
            }
        }

        impl $crate::decode::Field for $name {
            fn absent() -> Self {
                Self::default()
            }

            fn decode(cursor: &$crate::decode::Cursor<'_>) -> Result<Self, $crate::ConfigError> {
                <Self as $crate::decode::Options>::decode_object(cursor)
            }

            fn to_json(&self) -> $crate::serde_json::Value {
                $crate::serde_json::Value::Object($crate::decode::Options::to_map(self))
            }

            /// A struct of the reference is always printed; what is empty vanishes at the end.
            fn is_absent(&self) -> bool {
                false
            }

            fn go_type() -> ::std::borrow::Cow<'static, str> {
                $go.into()
            }

            fn schema(builder: &mut $crate::json_schema::SchemaBuilder) -> $crate::serde_json::Value {
                builder.define::<Self>()
            }
        }
    };

    (@default flatten, $ty:ty) => { <$ty as ::std::default::Default>::default() };
    (@default $key:literal, $ty:ty) => { <$ty as $crate::decode::Field>::absent() };

    (@decode $object:ident, flatten, $ty:ty) => { <$ty as $crate::decode::Options>::decode_fields($object) };
    (@decode $object:ident, $key:literal, $ty:ty) => { $object.field::<$ty>($key) };

    (@encode $out:ident, $self:ident.$field:ident, flatten, $ty:ty,) => {
        $crate::decode::Options::encode_fields(&$self.$field, $out)
    };
    (@encode $out:ident, $self:ident.$field:ident, $key:literal, $ty:ty,) => {
        if let Some(value) = $crate::decode::Field::encode(&$self.$field) {
            $out.insert($key.to_owned(), value);
        }
    };
    (@encode $out:ident, $self:ident.$field:ident, $key:literal, $ty:ty, always) => {
        $out.insert($key.to_owned(), $crate::decode::Field::to_json(&$self.$field))
    };

    (@describe $object:ident, flatten, $ty:ty, $doc:tt) => { $object.flatten::<$ty>() };
    (@describe $object:ident, $key:literal, $ty:ty, $doc:tt) => { $object.property::<$ty>($key, &$doc) };

    (@loose) => { false };
    (@loose loose $($rest:ident)*) => { true };
    (@loose $other:ident $($rest:ident)*) => { $crate::options!(@loose $($rest)*) };

    (@checked $object:ident, $value:ident,) => {};
    (@checked $object:ident, $value:ident, checked $($rest:ident)*) => {
        $object.check(|| $crate::decode::Check::check(&$value))
    };
    (@checked $object:ident, $value:ident, $other:ident $($rest:ident)*) => {
        $crate::options!(@checked $object, $value, $($rest)*)
    };
}
