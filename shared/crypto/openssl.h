// RAII for OpenSSL objects and the one way its errors become ours. Raw *_free calls appear only here.
#pragma once

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/cms.h>
#include <openssl/evp.h>
#include <openssl/pkcs7.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>

#include "shared/base/bytes.h"
#include "shared/base/status.h"

namespace sealift {

template <auto free_function>
struct FreeWith {
  template <typename T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};
// unique_ptr for C objects: pointer-sized, the free function is part of the type.
template <typename T, auto free_function>
using CPtr = std::unique_ptr<T, FreeWith<free_function>>;

using EvpPkeyPtr = CPtr<EVP_PKEY, EVP_PKEY_free>;
using EvpPkeyCtxPtr = CPtr<EVP_PKEY_CTX, EVP_PKEY_CTX_free>;
using EvpMdCtxPtr = CPtr<EVP_MD_CTX, EVP_MD_CTX_free>;
using X509Ptr = CPtr<X509, X509_free>;
using X509ReqPtr = CPtr<X509_REQ, X509_REQ_free>;
using X509NamePtr = CPtr<X509_NAME, X509_NAME_free>;
using X509StorePtr = CPtr<X509_STORE, X509_STORE_free>;
using X509StoreCtxPtr = CPtr<X509_STORE_CTX, X509_STORE_CTX_free>;
using X509ExtensionPtr = CPtr<X509_EXTENSION, X509_EXTENSION_free>;
using BioPtr = CPtr<BIO, BIO_free_all>;
using BigNumPtr = CPtr<BIGNUM, BN_free>;
using Pkcs7Ptr = CPtr<PKCS7, PKCS7_free>;
using CmsPtr = CPtr<CMS_ContentInfo, CMS_ContentInfo_free>;

// Drains OpenSSL's error queue of this thread into one error. `message` as everywhere: "<verb> <object>".
Status OpenSslError(Reason reason, std::string_view message, std::string_view call);

}  // namespace sealift
