#include "shared/crypto/key_reference.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/core_object.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/provider.h>

#include <array>
#include <map>
#include <mutex>

#include "shared/base/log.h"
#include "shared/crypto/key_provider.h"

namespace sealift {
namespace {

// A reference is a URI; nothing that is one comes near this.
constexpr std::size_t kMaxReferenceBytes = 8192;
constexpr char kHandshakeIntent[] = "tls handshake";

std::string PemLine(std::string_view word) {
  return fmt::format("-----{} {}-----", word, provider::kKeyPemLabel);
}

struct Registry {
  std::mutex mutex;
  std::map<std::string, KeyResolver, std::less<>> resolvers;
};

Registry& TheRegistry() {
  static Registry& registry = *new Registry;  // never destroyed: gRPC threads may outlive main
  return registry;
}

bool IsKeyReference(std::string_view pem) { return pem.find(PemLine("BEGIN")) != std::string_view::npos; }

Result<std::string> ParseReference(std::string_view pem) {
  const std::string begin = PemLine("BEGIN");
  const std::size_t from = pem.find(begin);
  const std::size_t to = pem.find(PemLine("END"), from == std::string_view::npos ? 0 : from);
  if (pem.size() > kMaxReferenceBytes || from == std::string_view::npos || to == std::string_view::npos) {
    return MakeError(Code::kInvalidArgument, Reason::kMalformed,
                     fmt::format("read key reference: no complete PEM '{}'", provider::kKeyPemLabel));
  }
  const std::size_t body = from + begin.size();
  SEALIFT_ASSIGN_OR_RETURN(const Bytes uri, Base64Decode(pem.substr(body, to - body)));
  return ToText(uri);
}

Result<std::shared_ptr<Signer>> Resolve(std::string_view uri) {
  const std::string scheme(uri.substr(0, uri.find(':')));
  KeyResolver resolver;
  {
    const std::lock_guard lock(TheRegistry().mutex);
    const auto found = TheRegistry().resolvers.find(scheme);
    if (found != TheRegistry().resolvers.end()) resolver = found->second;
  }
  if (!resolver) {
    return MakeError(Code::kFailedPrecondition, Reason::kInvalidArgument,
                     fmt::format("load key reference: nothing in this program opens '{}:' keys", scheme));
  }
  return resolver(uri);
}

// --- decoder: the reference PEM becomes a KeyData. See provider-decoder(7).

OSSL_FUNC_BIO_read_ex_fn* core_bio_read = nullptr;

std::string ReadBounded(OSSL_CORE_BIO* bio) {
  std::string text;
  std::array<char, 1024> chunk{};
  std::size_t size = 0;
  while (text.size() <= kMaxReferenceBytes && core_bio_read(bio, chunk.data(), chunk.size(), &size) == 1 &&
         size > 0) {
    text.append(chunk.data(), size);
  }
  return text;
}

void* DecoderNew(void* provider) { return provider; }
void DecoderFree(void* /*context*/) {}
int DecoderSelects(void* /*provider*/, int /*selection*/) { return 1; }

// Returning 1 without calling `found` means "not mine, ask the next decoder".
int Decode(void* /*context*/, OSSL_CORE_BIO* bio, int /*selection*/, OSSL_CALLBACK* found, void* argument,
           OSSL_PASSPHRASE_CALLBACK* /*passphrase*/, void* /*passphrase_argument*/) {
  const std::string pem = ReadBounded(bio);
  if (!IsKeyReference(pem)) return 1;
  const auto uri = ParseReference(pem);
  auto signer = uri.ok() ? Resolve(*uri) : Result<std::shared_ptr<Signer>>(uri.status());
  if (!signer.ok()) {
    // Callers such as gRPC drop OpenSSL's queue, so this is the last place that knows the reason.
    log::Error("key reference cannot be opened",
               {{"reason", ReasonIdOf(signer.status())}, {"error", MessageOf(signer.status())}});
    provider::RaiseStatus(signer.status());
    return 0;
  }
  auto public_key = PublicKey::FromDer((*signer)->public_key().spki_der());
  if (!public_key.ok()) {
    provider::RaiseStatus(public_key.status());
    return 0;
  }
  const bool rsa = public_key->type() == KeyType::kRsa;
  provider::KeyData key{.public_key = std::move(public_key).value(),
                        .signer = *std::move(signer),
                        .intent = kHandshakeIntent,
                        .tls = true};
  provider::KeyData* reference = &key;
  int object = OSSL_OBJECT_PKEY;
  std::string type = rsa ? "RSA" : "EC";
  const std::array<OSSL_PARAM, 4> params{
      OSSL_PARAM_construct_int(OSSL_OBJECT_PARAM_TYPE, &object),
      OSSL_PARAM_construct_utf8_string(OSSL_OBJECT_PARAM_DATA_TYPE, type.data(), 0),
      // The pointer itself travels. NOLINTNEXTLINE(bugprone-sizeof-expression)
      OSSL_PARAM_construct_octet_string(OSSL_OBJECT_PARAM_REFERENCE, &reference, sizeof(reference)),
      OSSL_PARAM_construct_end()};
  return found(params.data(), argument);
}

const OSSL_DISPATCH kDecoder[] = {provider::Entry(OSSL_FUNC_DECODER_NEWCTX, DecoderNew),
                                  provider::Entry(OSSL_FUNC_DECODER_FREECTX, DecoderFree),
                                  provider::Entry(OSSL_FUNC_DECODER_DOES_SELECTION, DecoderSelects),
                                  provider::Entry(OSSL_FUNC_DECODER_DECODE, Decode),
                                  {0, nullptr}};

// --- the provider itself

const OSSL_ALGORITHM kDecoders[] = {{"EC", "provider=sealift,input=pem", kDecoder, ""},
                                    {nullptr, nullptr, nullptr, nullptr}};
const OSSL_ALGORITHM kKeyManagements[] = {
    {"EC:id-ecPublicKey:1.2.840.10045.2.1", "provider=sealift", provider::kEcKeyManagement, ""},
    {"RSA:rsaEncryption:1.2.840.113549.1.1.1", "provider=sealift", provider::kRsaKeyManagement, ""},
    {nullptr, nullptr, nullptr, nullptr}};
const OSSL_ALGORITHM kSignatures[] = {
    {"ECDSA", "provider=sealift", provider::kSignature, ""},
    {"RSA:rsaEncryption:1.2.840.113549.1.1.1", "provider=sealift", provider::kSignature, ""},
    {nullptr, nullptr, nullptr, nullptr}};

const OSSL_ALGORITHM* Query(void* /*provider*/, int operation, int* no_cache) {
  *no_cache = 0;
  switch (operation) {
    case OSSL_OP_DECODER:
      return kDecoders;
    case OSSL_OP_KEYMGMT:
      return kKeyManagements;
    case OSSL_OP_SIGNATURE:
      return kSignatures;
    default:
      return nullptr;
  }
}

void TearDown(void* /*provider*/) {}

const OSSL_DISPATCH kProvider[] = {provider::Entry(OSSL_FUNC_PROVIDER_QUERY_OPERATION, Query),
                                   provider::Entry(OSSL_FUNC_PROVIDER_TEARDOWN, TearDown),
                                   {0, nullptr}};

int InitProvider(const OSSL_CORE_HANDLE* handle, const OSSL_DISPATCH* in, const OSSL_DISPATCH** out,
                 void** context) {
  for (; in->function_id != 0; ++in) {
    if (in->function_id == OSSL_FUNC_BIO_READ_EX) core_bio_read = OSSL_FUNC_BIO_read_ex(in);
  }
  // Not ours to change; OpenSSL only hands it back.
  *context = const_cast<OSSL_CORE_HANDLE*>(handle);
  *out = kProvider;
  return core_bio_read == nullptr ? 0 : 1;
}

Result<EvpPkeyPtr> Wrap(std::shared_ptr<Signer> signer, std::string intent, bool tls) {
  if (OSSL_PROVIDER_available(nullptr, provider::kName) != 1) {
    return MakeError(Code::kFailedPrecondition, Reason::kInternal,
                     "wrap signer: the key provider is not installed");
  }
  // Parsed anew, so that it is a key of the default provider whatever the signer's own object is.
  SEALIFT_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromDer(signer->public_key().spki_der()));
  const char* type = public_key.type() == KeyType::kRsa ? "RSA" : "EC";
  const provider::KeyData key{.public_key = std::move(public_key),
                              .signer = std::move(signer),
                              .intent = std::move(intent),
                              .tls = tls};
  const provider::KeyData* reference = &key;
  std::array<OSSL_PARAM, 2> params{
      // Here, too. NOLINTNEXTLINE(bugprone-sizeof-expression)
      OSSL_PARAM_construct_octet_string(provider::kKeyParam, &reference, sizeof(reference)),
      OSSL_PARAM_construct_end()};
  const EvpPkeyCtxPtr context(EVP_PKEY_CTX_new_from_name(nullptr, type, "provider=sealift"));
  EVP_PKEY* made = nullptr;
  if (context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &made, EVP_PKEY_KEYPAIR, params.data()) != 1) {
    return OpenSslError(Reason::kCryptoFailed, "wrap signer", "EVP_PKEY_fromdata");
  }
  return EvpPkeyPtr(made);
}

}  // namespace

Status InstallKeyProvider() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (OSSL_PROVIDER_available(nullptr, provider::kName) == 1) return OkStatus();
  // Default first: where nothing else decides, OpenSSL takes the implementation it met first, and ordinary
  // keys must stay with the default provider.
  if (OSSL_PROVIDER_load(nullptr, "default") == nullptr ||
      OSSL_PROVIDER_add_builtin(nullptr, provider::kName, InitProvider) != 1 ||
      OSSL_PROVIDER_load(nullptr, provider::kName) == nullptr) {
    return OpenSslError(Reason::kCryptoFailed, "install key provider", "OSSL_PROVIDER_load");
  }
  return OkStatus();
}

void RegisterKeyResolver(std::string_view scheme, KeyResolver resolver) {
  const std::lock_guard lock(TheRegistry().mutex);
  TheRegistry().resolvers.insert_or_assign(std::string(scheme), std::move(resolver));
}

std::string KeyReferencePem(std::string_view uri) {
  constexpr std::size_t kLine = 64;
  const std::string base64 = Base64Encode(AsBytes(uri));
  std::string pem = PemLine("BEGIN") + "\n";
  for (std::size_t at = 0; at < base64.size(); at += kLine) pem += base64.substr(at, kLine) + "\n";
  return pem + PemLine("END") + "\n";
}

Result<EvpPkeyPtr> LoadKeyReference(std::string_view pem) {
  SEALIFT_ASSIGN_OR_RETURN(const std::string uri, ParseReference(pem));
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Signer> signer, Resolve(uri));
  return Wrap(std::move(signer), kHandshakeIntent, true);
}

Result<EvpPkeyPtr> LoadKeyPem(std::string_view pem, std::string_view what) {
  if (pem.find(provider::kKeyPemLabel) != std::string_view::npos) return LoadKeyReference(pem);
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  EvpPkeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (key != nullptr) return key;
  return OpenSslError(Reason::kMalformed, fmt::format("{}: not an unencrypted PEM", what),
                      "PEM_read_bio_PrivateKey");
}

Result<EvpPkeyPtr> WrapSigner(std::shared_ptr<Signer> signer, std::string intent) {
  return Wrap(std::move(signer), std::move(intent), false);
}

}  // namespace sealift
