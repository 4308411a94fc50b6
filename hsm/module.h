// A PKCS#11 module, loaded and initialised through p11-kit.
//
// Thread-safe. One object a module and process, shared: Load returns the one that is in use. Finalised when
// the last user lets go.
//
// A module whose connection broke (a p11-kit server's child died, say) answers every call with an error until
// C_Finalize and C_Initialize. Both end all sessions, logins and handles of the whole process: the module's
// generation goes up, and what belongs to an older one may not even be closed, since its numbers are given
// out again. Whoever calls the module on behalf of a session holds a Use, which keeps the generation.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hsm/pipe_signal.h"
#include "hsm/pkcs11.h"
#include "hsm/token_uri.h"

namespace sealift::hsm {

class Module {
 public:
  // While one lives, the module is not initialised anew. Short-lived: one signature, one search. Belongs to
  // the thread that entered.
  class Use {
   public:
    Use(Use&& other) noexcept
        : module_(std::exchange(other.module_, nullptr)),
          generation_(other.generation_),
          pipe_signal_held_(std::move(other.pipe_signal_held_)) {}
    Use& operator=(Use&&) = delete;
    ~Use();
    std::uint64_t generation() const { return generation_; }

   private:
    friend class Module;
    Use(Module* module, std::uint64_t generation) : module_(module), generation_(generation) {}
    Module* module_;
    std::uint64_t generation_;
    PipeSignalHeld pipe_signal_held_;
  };

  // The module the URI names: module-path, else module-name (one that p11-kit's configuration knows), else
  // SoftHSM2 where the system keeps it. SoftHSM reads its configuration once, in C_Initialize: SOFTHSM2_CONF
  // is set to <store>/softhsm2.conf for that moment, in this process only.
  // Errors: FAILED_PRECONDITION/HSM_MODULE_UNUSABLE, also when SoftHSM is in use here with another store;
  // NOT_FOUND/HSM_TOKEN_MISSING when the store has no configuration.
  static Result<std::shared_ptr<Module>> Load(const TokenUri& uri);
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  ~Module();

  CK_FUNCTION_LIST& api() const { return *functions_; }
  // Distinguishes modules in one process: path or name.
  const std::string& key() const { return key_; }
  const std::string& softhsm_store() const { return softhsm_store_; }

  // Waits while the module is being initialised anew, and for the turn of this thread where calls must not
  // overlap: threads of p11-kit's client 0.24 wait for ever when its server's child dies between the two
  // parts of a reply to another of them.
  Use Enter();
  // C_Finalize and C_Initialize, if the module answers nothing or shows no slot; otherwise does nothing. The
  // caller holds no Use. Waits for those of others, who get errors from a dead module soon. Errors:
  // UNAVAILABLE/HSM_BUSY when some call does not come back; HSM_TOKEN_MISSING when what the module connects
  // to is away (worth a retry).
  Status Reinitialise();

  // Slots with a token in them, `with_token` false: all. Errors as Pkcs11Error.
  Result<std::vector<CK_SLOT_ID>> Slots(bool with_token) const;

 private:
  Module(CK_FUNCTION_LIST* functions, std::string key, std::string softhsm_store);
  static Result<std::shared_ptr<Module>> LoadNew(const TokenUri& uri, const std::string& key);
  bool Responds() const;

  CK_FUNCTION_LIST* functions_;
  std::string key_;
  std::string softhsm_store_;

  std::mutex mutex_;
  std::condition_variable left_;
  bool one_at_a_time_ = false;
  std::size_t users_ = 0;
  // Of the thread whose turn it is; it may enter again.
  std::thread::id turn_;
  std::uint64_t generation_ = 1;
  bool initialised_ = true;
};

// "<store>/softhsm2.conf".
std::filesystem::path SoftHsmConfig(const std::filesystem::path& store);

}  // namespace sealift::hsm
