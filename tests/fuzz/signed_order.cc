// Orders of foreign origin, as they lie on the ESP or come from a controller: envelope, order, delegation,
// request; what is parsed survives being written again.
#include "shared/order/delegation.h"
#include "shared/order/dsse.h"
#include "shared/order/order.h"

using namespace sealift;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = AsText(ByteView(data, size));
  static const auto root = SoftwareSigner::Generate(KeyType::kEcP256).value();
  const order::OrderContext context{
      .orders_root = root->public_key(), .ek_digest = {}, .nonce = {}, .now = {}};
  SEALIFT_CHECK(!order::VerifyOrder(text, context).ok());
  SEALIFT_CHECK(!order::VerifyDelegation(text, root->public_key(), {}).ok());
  const auto request = order::ParseChangeRequest(text);
  if (request.ok()) SEALIFT_CHECK(order::CanonicalRequest(*request) == text);
  const auto label = order::ReadOrderLabel(text);
  if (label.ok()) SEALIFT_CHECK(order::CheckChangeRequest(label->request).ok());
  const auto envelope = order::ParseEnvelope(text);
  if (envelope.ok()) {
    const auto again = order::ParseEnvelope(order::FormatEnvelope(*envelope));
    SEALIFT_CHECK(again.ok() && *again == *envelope);
  }
  return 0;
}
