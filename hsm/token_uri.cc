#include "hsm/token_uri.h"

#include <fmt/format.h>
#include <p11-kit/uri.h>

#include <cstring>
#include <utility>

#include "hsm/pkcs11.h"
#include "shared/crypto/openssl.h"

namespace sealift::hsm {
namespace {

using UriPtr = CPtr<P11KitUri, p11_kit_uri_free>;
constexpr std::size_t kMaxUriBytes = 4096;
constexpr char kStoreAttribute[] = "x-softhsm-store";

Status UriError(std::string_view what) {
  return MakeError(Code::kInvalidArgument, Reason::kInvalidArgument, fmt::format("read token URI: {}", what));
}

std::string OrEmpty(const char* text) { return text == nullptr ? std::string() : std::string(text); }

template <std::size_t size>
std::string Field(const unsigned char (&field)[size]) {
  return PaddedText(field, size);
}

// Fields of CK_TOKEN_INFO are blank-padded; all zero means "not given" to p11-kit.
template <std::size_t size>
void SetField(unsigned char (&field)[size], const std::string& text) {
  std::memset(field, text.empty() ? 0 : ' ', size);
  std::memcpy(field, text.data(), std::min(size, text.size()));
}

Bytes Attribute(P11KitUri* uri, CK_ATTRIBUTE_TYPE type) {
  const CK_ATTRIBUTE* found = p11_kit_uri_get_attribute(uri, type);
  if (found == nullptr) return {};
  const auto* data = static_cast<const std::uint8_t*>(found->pValue);
  return {data, data + found->ulValueLen};
}

void SetAttribute(P11KitUri* uri, CK_ATTRIBUTE_TYPE type, ByteView value) {
  if (value.empty()) return;
  Bytes copy = ToBytes(value);
  CK_ATTRIBUTE attribute{type, copy.data(), copy.size()};
  SEALIFT_CHECK(p11_kit_uri_set_attribute(uri, &attribute) == P11_KIT_URI_OK);
}

Result<std::string> PinFile(const char* source) {
  if (source == nullptr) return std::string();
  std::string_view path(source);
  if (path.starts_with('|')) return UriError("pin-source may name a file only, never a command");
  if (path.starts_with("file://")) {
    path.remove_prefix(7);
  } else if (path.starts_with("file:")) {
    path.remove_prefix(5);
  }
  if (!path.starts_with('/')) {
    return UriError(fmt::format("pin-source '{}' is not file: and an absolute path", source));
  }
  return std::string(path);
}

// p11-kit escapes more than RFC 7512 asks for; paths stay readable without.
std::string Readable(std::string uri) {
  const std::size_t query = uri.find('?');
  for (const auto& [escaped, plain] : {std::pair{"%2F", "/"}, std::pair{"%3A", ":"}}) {
    for (std::size_t at = uri.find(escaped, query); at != std::string::npos && query != std::string::npos;
         at = uri.find(escaped, at)) {
      uri.replace(at, 3, plain);
    }
  }
  return uri;
}

}  // namespace

Result<TokenUri> TokenUri::Parse(std::string_view text) {
  const UriPtr uri(p11_kit_uri_new());
  SEALIFT_CHECK(uri != nullptr);
  const int rc = text.size() > kMaxUriBytes || text.find('\0') != std::string_view::npos
                     ? P11_KIT_URI_BAD_SYNTAX
                     : p11_kit_uri_parse(std::string(text).c_str(), P11_KIT_URI_FOR_ANY, uri.get());
  // Not quoted: what does not parse may hold a PIN.
  if (rc != P11_KIT_URI_OK) {
    return UriError("not of the form pkcs11:token=LABEL?pin-source=file:PATH (RFC 7512)");
  }
  if (p11_kit_uri_get_pin_value(uri.get()) != nullptr) {
    return UriError("pin-value would show the PIN in process lists and logs; use pin-source=file:PATH");
  }
  if (p11_kit_uri_any_unrecognized(uri.get()) != 0) return UriError("it has an attribute nobody knows");
  TokenUri parsed;
  const CK_TOKEN_INFO* info = p11_kit_uri_get_token_info(uri.get());
  parsed.token = Field(info->label);
  parsed.serial = Field(info->serialNumber);
  parsed.model = Field(info->model);
  parsed.manufacturer = Field(info->manufacturerID);
  if (parsed.token.empty() && parsed.serial.empty() && parsed.model.empty()) {
    return UriError("it names no token; give token=LABEL");
  }
  parsed.id = Attribute(uri.get(), CKA_ID);
  parsed.object = ToText(Attribute(uri.get(), CKA_LABEL));
  SEALIFT_ASSIGN_OR_RETURN(parsed.pin_file, PinFile(p11_kit_uri_get_pin_source(uri.get())));
  parsed.module_path = OrEmpty(p11_kit_uri_get_module_path(uri.get()));
  parsed.module_name = OrEmpty(p11_kit_uri_get_module_name(uri.get()));
  parsed.softhsm_store = OrEmpty(p11_kit_uri_get_vendor_query(uri.get(), kStoreAttribute));
  if (!parsed.softhsm_store.empty() && !parsed.softhsm_store.starts_with('/')) {
    return UriError(fmt::format("{} '{}' is not an absolute path", kStoreAttribute, parsed.softhsm_store));
  }
  if (!parsed.module_path.empty() && !parsed.module_path.starts_with('/')) {
    return UriError(fmt::format("module-path '{}' is not an absolute path", parsed.module_path));
  }
  return parsed;
}

std::string TokenUri::Text() const {
  const UriPtr uri(p11_kit_uri_new());
  SEALIFT_CHECK(uri != nullptr);
  CK_TOKEN_INFO* info = p11_kit_uri_get_token_info(uri.get());
  SetField(info->label, token);
  SetField(info->serialNumber, serial);
  SetField(info->model, model);
  SetField(info->manufacturerID, manufacturer);
  SetAttribute(uri.get(), CKA_ID, id);
  SetAttribute(uri.get(), CKA_LABEL, AsBytes(object));
  if (!pin_file.empty()) p11_kit_uri_set_pin_source(uri.get(), ("file:" + pin_file).c_str());
  if (!module_path.empty()) p11_kit_uri_set_module_path(uri.get(), module_path.c_str());
  if (!module_name.empty()) p11_kit_uri_set_module_name(uri.get(), module_name.c_str());
  if (!softhsm_store.empty()) {
    SEALIFT_CHECK(p11_kit_uri_set_vendor_query(uri.get(), kStoreAttribute, softhsm_store.c_str()) == 1);
  }
  char* text = nullptr;
  SEALIFT_CHECK(p11_kit_uri_format(uri.get(), P11_KIT_URI_FOR_ANY, &text) == P11_KIT_URI_OK);
  std::string formatted(text);
  std::free(text);
  return Readable(std::move(formatted));
}

TokenUri TokenUri::TokenOnly() const {
  TokenUri only = *this;
  only.id.clear();
  only.object.clear();
  only.pin_file.clear();
  return only;
}

std::string TokenUri::Name() const { return fmt::format("'{}'", !token.empty() ? token : serial + model); }

Result<TokenArgument> TokenArgument::Parse(std::string_view text) {
  TokenArgument argument;
  if (!text.starts_with("pkcs11:")) {
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) {
      return UriError("not of the form [GROUP=]pkcs11:token=LABEL?pin-source=file:PATH");
    }
    argument.group = std::string(text.substr(0, equals));
    text.remove_prefix(equals + 1);
  }
  SEALIFT_ASSIGN_OR_RETURN(argument.uri, TokenUri::Parse(text));
  return argument;
}

}  // namespace sealift::hsm
